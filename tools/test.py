"""Evaluate a checkpoint, or a compact file, on the test set of a config.

python tools/test.py configs/pab/quickstart.py work_dirs/quickstart/epoch_20.pth
"""

import argparse

from pab.run.launch import add_run_arguments, errors_in_one_line, load_config, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint that training wrote, or a compact file (.pab)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.checkpoint.endswith('.pab'):
        with errors_in_one_line():
            from pab.compact.checkpoint import evaluate_file_  # what it needs is an extra

            evaluate_file_(cfg, args.checkpoint)
    run(cfg, lambda runner: runner.test())


if __name__ == '__main__':
    main()
