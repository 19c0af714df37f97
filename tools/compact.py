"""``pab compact``, in a checkout."""

from pab.cli.compact import main

if __name__ == '__main__':
    main()
