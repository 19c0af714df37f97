"""Count the costs of a config's network and of a training step: multiply-accumulates, bit-operations and bytes.

python tools/analyze.py configs/pab/r18_cifar10.py
python tools/analyze.py configs/pab/r18_cifar10.py work_dirs/r18_cifar10/epoch_180.pth --json costs.json

The images are of model.input_shape; where the training data can be read, they are compared. Without a checkpoint, the
network is initialised and pruned as the config says, which takes as long as it does in
training; pab/costs/count.py has the formulas.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pab.costs.run import RunCosts, masks_of_checkpoint, masks_of_config, run_costs
from pab.files import check_free, write_atomically
from pab.hooks.guards.data_check import describe_input_shape
from pab.report.amounts import short
from pab.run.checkpoint import load_any
from pab.run.launch import add_config_arguments, errors_in_one_line, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='whose masks count (default: prune anew, as the config says)')
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    parser.add_argument('--force', action='store_true', help='write over that file if it is there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    with errors_in_one_line():
        if args.json:
            check_free(args.json, args.force)
        shape = describe_input_shape(cfg)  # before the pruning, which takes a while
        masks = masks_of_checkpoint(load_any(args.checkpoint)) if args.checkpoint else masks_of_config(cfg)
        costs = run_costs(cfg, masks)
        print(tables(costs), shape, sep='\n\n')
        if args.json:
            write_atomically(json.dumps(asdict(costs), indent=1).encode(), args.json)


def tables(costs: RunCosts) -> str:
    """The costs as text."""
    lines = [f'{"layer":<28} {"kind":<12} {"weight":<16} {"output":<12} {"density":>8} {"MACs":>8} {"sparse":>8}  bits']
    for row in costs.layers:
        weight, output, bits = ('x'.join(map(str, sizes)) for sizes in (row.weight, row.output, row.gradient_bits))
        counts = f'{row.kept / row.total:>8.4f} {short(row.macs):>8} {short(row.sparse_macs):>8}'
        lines.append(f'{row.name:<28} {row.kind:<12} {weight:<16} {output:<12} {counts}  {bits}')
    lines.append('MACs: multiply-accumulates of the forward pass for one image, dense, and without pruned weights;')
    lines.append('bits: of the operands of the weight gradient, input and output gradient; all other operands have 32')
    title = f'one step, {costs.batch} images'
    lines += ['', f'{title}, multiply-accumulates', *grid({way: work.macs for way, work in costs.step.items()})]
    lines += ['', f'{title}, bit-operations', *grid({way: work.bit_operations for way, work in costs.step.items()})]
    lines += ['', f'bytes while training, batch of {costs.batch}', *grid(costs.storage)]
    return '\n'.join(lines)


def grid(ways: dict[str, dict[str, float]]) -> list[str]:
    """One line for each part and one for the sum, a column for each way of training."""
    parts = list(dict.fromkeys(part for amounts in ways.values() for part in amounts))
    head = f'  {"":<18}' + ''.join(f'{way:>14}' for way in ways)
    rows = [(part, [amounts.get(part, 0) for amounts in ways.values()]) for part in parts]
    rows.append(('all', [sum(amounts.values()) for amounts in ways.values()]))
    return [head, *(f'  {part:<18}' + ''.join(f'{short(cell):>14}' for cell in cells) for part, cells in rows)]


if __name__ == '__main__':
    main()
