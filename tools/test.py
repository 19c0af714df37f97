"""``pab test``, in a checkout."""

from pab.cli.test import main

if __name__ == '__main__':
    main()
