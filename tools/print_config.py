"""``pab config``, in a checkout."""

from pab.cli.config import main

if __name__ == '__main__':
    main()
