"""``pab report``, in a checkout."""

from pab.cli.report import main

if __name__ == '__main__':
    main()
