"""Measure how expensive training by sign flips is, beside the best dense training step.

pab benchmark            every measure, on the CPU
pab benchmark bop data   some of them
pab benchmark step --device cuda --json step.json

Contenders run in turns in one process (A B A B ...); the ratio is the median of the paired ratios, and what follows it
is half the distance between the quartiles. Other programs that run at the same time disturb all numbers: look at the
load average in the first line.
"""

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from ..benchmarks.timing import Settings, environment, table
from ..files import check_free, write_atomically
from ..run.allocator import keep_freed_memory
from ..run.launch import errors_in_one_line

MEASURES = {
    'step': 'a training step: time, phases, memory; what masks, hooks and counting add',
    'narrow': 'steps and onnxruntime without dead channels, beside the dense network',
    'bop': "an optimizer step, beside torch's SGD",
    'prune': 'SynFlow over 100 rounds',
    'data': 'CIFAR-10 and ImageNet input, beside PIL pipelines',
    'loop': "mmengine's loop with our hooks, beside a bare loop of the same work",
    'sparse': 'matrix products by 2:4 weights beside dense ones; on a GPU',
    'start': 'imports, and from the start of pab train to its first step',
}


def parse_args() -> argparse.Namespace:
    lines = '\n'.join(f'  {name:<6} {what}' for name, what in MEASURES.items())
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nmeasures:\n{lines}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('measures', nargs='*', metavar='MEASURE', default=['all'], help='default: all')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results there')
    parser.add_argument('--force', action='store_true', help='write over that file if it is there')
    parser.add_argument('--repeats', type=int, default=15, help='rounds that count (default: 15)')
    parser.add_argument('--warmup', type=int, default=3, help='rounds before them (default: 3)')
    parser.add_argument('--threads', type=int, help='of torch (default: its own choice)')
    parser.add_argument('--compile', action='store_true', help='also compile the whole networks (minutes)')
    parser.add_argument('--full', action='store_true', help='also what takes minutes: SynFlow on ResNet-50 at 224')
    parser.add_argument('--tiny', action='store_true', help='smallest sizes, to see that everything runs')
    args = parser.parse_args()
    if unknown := sorted(set(args.measures) - set(MEASURES) - {'all'}):
        parser.error(f'there is no measure {unknown}; there are {[*MEASURES, "all"]}')
    for name, least in (('repeats', 1), ('warmup', 0), ('threads', 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f'--{name} must be at least {least}, got {value}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch sees no GPU here')
    return args


def main() -> None:
    args = parse_args()
    with errors_in_one_line():
        if args.json:
            check_free(args.json, args.force)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.device == 'cuda':
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision('high')
        torch.backends.cudnn.allow_tf32 = True
    else:
        keep_freed_memory()  # as pab train does; for all contenders
    settings = Settings(args.device, args.repeats, args.warmup, args.tiny, args.full, args.compile)
    info = environment(settings)
    print(', '.join(f'{key} {value}' for key, value in info.items()), flush=True)
    rows = []
    for name in MEASURES if 'all' in args.measures else args.measures:
        print(f'measuring {name}: {MEASURES[name]}', file=sys.stderr, flush=True)
        new = importlib.import_module(f'pab.benchmarks.{name}').measure(settings)
        if new:  # a measure that says what it lacks has no rows
            print(f'\n{table(new)}', flush=True)
        rows += new
    if args.json:
        text = json.dumps({'environment': info, 'rows': [asdict(r) for r in rows]}, indent=1) + '\n'
        with errors_in_one_line():
            write_atomically(text.encode(), args.json)
