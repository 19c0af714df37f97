"""Evaluate a checkpoint, or a compact file, on the test set of a config.

pab test pab/quickstart work_dirs/quickstart/epoch_20.pth

With --sparse, linear layers and 1x1 convolutions with 2:4 weights (of a pruner with scope='2:4' and density=0.5) run on
the GPU's sparse kernels, in bfloat16. The log says which do, and why the others run as they are.
"""

import argparse
import sys

from mmengine.hooks import Hook

from ..contrib import sparse
from ..run import PabRunner
from ..run.launch import add_run_arguments, errors_in_one_line, load_config, run


class UseSparseKernels(Hook):
    """Change the layers when the checkpoint is loaded."""

    priority = 'LOWEST'  # when an averaged copy has taken the network's place

    def before_test_epoch(self, runner: PabRunner) -> None:
        """Change them, and say which."""
        runner.logger.info(sparse.describe(sparse.use_sparse_kernels_(runner.network)))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint that training wrote, or a compact file (.pab)')
    parser.add_argument('--sparse', action='store_true', help='multiply by 2:4 weights on sparse kernels')
    return parser.parse_args()


def test(runner: PabRunner, use_sparse_kernels: bool) -> None:
    if use_sparse_kernels:
        runner.register_hook(UseSparseKernels())
    runner.test()


def main() -> None:
    args = parse_args()
    if args.sparse and (lacking := sparse.missing_support()):
        sys.exit(f'error: --sparse: {lacking}')
    cfg = load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.checkpoint.endswith('.pab'):
        with errors_in_one_line():
            from pab.compact.checkpoint import evaluate_file_  # what it needs is an extra

            evaluate_file_(cfg, args.checkpoint)
    run(cfg, lambda runner: test(runner, args.sparse))
