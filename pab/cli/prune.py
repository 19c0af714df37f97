"""Prune the network of a config and write it to a file; nothing is trained.

    pab prune pab/r50_imagenet --out work_dirs/r50_pruned.pth
    pab train pab/r50_imagenet --cfg-options load_from=work_dirs/r50_pruned.pth

The network is freshly initialised, or the one in the file that the config's load_from names. Training from the pruned
file starts with its weights and masks, and prunes no more. It must be the same config and seed.
"""

import argparse
from pathlib import Path

from ..hooks.method.prune_to_file import prune_to_file
from ..run.launch import add_run_arguments, add_seed_argument, load_config, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    add_seed_argument(parser)
    parser.add_argument('--out', required=True, type=Path, help='the file to write')
    parser.add_argument('--force', action='store_true', help='write over a file that is there')
    args = parser.parse_args()
    run(load_config(args), lambda runner: prune_to_file(runner, args.out, overwrite=args.force))
