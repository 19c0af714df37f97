"""``pab prune``, in a checkout."""

from pab.__main__ import run

if __name__ == '__main__':
    run('prune')
