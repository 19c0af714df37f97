"""``pab export``, in a checkout."""

from pab.cli.export import main

if __name__ == '__main__':
    main()
