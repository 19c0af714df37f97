"""``pab train``, in a checkout."""

from pab.cli.train import main

if __name__ == '__main__':
    main()
