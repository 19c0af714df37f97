"""``pab compare``, in a checkout."""

from pab.cli.compare import main

if __name__ == '__main__':
    main()
