"""``pab analyze``, in a checkout."""

from pab.cli.analyze import main

if __name__ == '__main__':
    main()
