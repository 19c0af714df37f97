"""``pab predict``, in a checkout."""

from pab.cli.predict import main

if __name__ == '__main__':
    main()
