"""Evaluate a checkpoint on the test set of a config.

python tools/test.py configs/pab/quickstart.py work_dirs/quickstart/epoch_20.pth
"""

import argparse

from pab.run.launch import add_run_arguments, load_config, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint that training wrote')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    run(cfg, lambda runner: runner.test())


if __name__ == '__main__':
    main()
