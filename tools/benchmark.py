"""``pab benchmark``, in a checkout."""

from pab.cli.benchmark import main

if __name__ == '__main__':
    main()
