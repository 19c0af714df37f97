"""Train the model of a config.

pab train pab/quickstart
pab train pab/r18_cifar10 --seed 1 --cfg-options default_hooks.prune.pruner.density=0.1
"""

import argparse

from ..run.launch import add_run_arguments, add_seed_argument, load_config, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    add_seed_argument(parser)
    text = 'go on from a checkpoint; without a file, from the newest good one in the work dir'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=text)
    text = 'begin although the work dir holds checkpoints of another run, and remove them'
    parser.add_argument('--overwrite', action='store_true', help=text)
    text = 'resume although the config is not the one of the checkpoint'
    parser.add_argument('--allow-changes', action='store_true', help=text)
    text = 'run the forward pass under autocast (default when given alone: bfloat16)'
    parser.add_argument('--amp', nargs='?', const='bfloat16', choices=['bfloat16', 'float16'], help=text)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        cfg.optim_wrapper.precision = args.amp
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.overwrite:
        cfg.overwrite = True
    if args.allow_changes:
        cfg.merge_from_dict({'default_hooks.resume_check.allow_changes': True})
    run(cfg, lambda runner: runner.train(), trains=True)
