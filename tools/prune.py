"""``pab prune``, in a checkout."""

from pab.cli.prune import main

if __name__ == '__main__':
    main()
