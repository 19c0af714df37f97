"""Count what a config's network and its training cost, layer by layer, and what structure would save; needs no data.

pab analyze pab/r18_cifar10
pab analyze pab/r18_cifar10 work_dirs/r18_cifar10/epoch_180.pth --json costs.json --picture densities.png

The images are of model.input_shape; where the training data can be read, they are compared. Without a checkpoint, the
network is initialised and pruned as the config says, which takes as long as it does in
training. pab/costs/count.py and pab/costs/structure.py have the formulas.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..costs.run import RunCosts, masks_of_checkpoint, masks_of_config, needs_images, run_costs
from ..datasets import asks_data, settle_auto
from ..files import check_free, find_trained, write_atomically
from ..hooks.guards.data_check import describe_input_shape
from ..report.amounts import short
from ..report.figures import draw_densities, to_png
from ..run.checkpoint import load_any
from ..run.launch import add_config_arguments, errors_in_one_line, load_config

CLASSES = 10  # where only data that are not here say their number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='file or name whose masks count (default: prune anew)')
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    text = 'draw the density of each layer and of its channels into this file'
    parser.add_argument('--picture', type=Path, metavar='OUT.png', help=text)
    parser.add_argument('--force', action='store_true', help='write over such files if they are there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    with errors_in_one_line():
        for file in filter(None, (args.json, args.picture)):
            check_free(file, args.force)
        if asks_data(cfg):
            settle_auto(cfg, CLASSES)
            told = f'The training data, which say the number of classes, are not here; {CLASSES} are assumed'
            print(f'{told}. PAB_DATA=FOLDER or --cfg-options model.network.num_classes=N says it\n')
        shape = describe_input_shape(cfg)  # before the pruning, which takes a while
        trained = args.checkpoint and find_trained(args.checkpoint)
        masks = masks_of_checkpoint(load_any(trained)) if trained else masks_of_config(cfg)
        costs = run_costs(cfg, masks)
        if needs_images(cfg) and not args.checkpoint:
            print("The pruner reads images. This one read noise: a run's masks differ, a checkpoint has them\n")
        print(tables(costs), shape, sep='\n\n')
        if args.json:
            write_atomically(json.dumps(asdict(costs), indent=1).encode(), args.json)
        if args.picture:
            densities = {row.name: row.channel_density for row in costs.structure if row.channel_density}
            write_atomically(
                to_png(draw_densities(f'Kept weights of {Path(args.config).stem}', densities)), args.picture
            )


def tables(costs: RunCosts) -> str:
    """The costs as text."""
    lines = [f'{"layer":<28} {"kind":<12} {"weight":<16} {"output":<12} {"density":>8} {"MACs":>8} {"sparse":>8}  bits']
    for row in costs.layers:
        weight, output, bits = ('x'.join(map(str, sizes)) for sizes in (row.weight, row.output, row.gradient_bits))
        counts = f'{row.kept / row.total:>8.4f} {short(row.macs):>8} {short(row.sparse_macs):>8}'
        lines.append(f'{row.name:<28} {row.kind:<12} {weight:<16} {output:<12} {counts}  {bits}')
    lines.append('MACs: multiply-accumulates of the forward pass for one image, dense, and without pruned weights;')
    lines.append('bits: of the operands of the weight gradient, input and output gradient; all other operands have 32')
    lines += ['', *structure_table(costs)]
    title = f'one step, {costs.batch} images'
    lines += ['', f'{title}, multiply-accumulates', *grid({way: work.macs for way, work in costs.step.items()})]
    lines += ['', f'{title}, bit-operations', *grid({way: work.bit_operations for way, work in costs.step.items()})]
    lines += ['', f'bytes while training, batch of {costs.batch}', *grid(costs.storage)]
    return '\n'.join(lines)


def structure_table(costs: RunCosts) -> list[str]:
    """What layers take to store, their work without dead channels, and what 2:4 weights would save: a line for each."""
    rows, known = costs.structure, not costs.not_narrowed

    def narrow(macs: int) -> str:
        return f' {short(macs):>8}' if known else ''

    title = f'{" narrow":>9}' if known else ''
    lines = [f'{"layer":<28} {"channels":>9} {"float32":>8} {"compact":>8}{title}   2:4 saves MACs, bytes']
    for row in rows:
        kept, channels = sum(density > 0 for density in row.channel_density), len(row.channel_density)
        saved = row.obstacle or f'{short(row.saved_macs)}, {short(row.saved_bytes)}'
        sizes = f'{short(row.full_bytes):>8} {short(row.compact_bytes):>8}{narrow(row.narrow_macs)}'
        lines.append(f'{row.name:<28} {f"{kept}/{channels}" if channels else "-":>9} {sizes}   {saved}')
    keys = ('full_bytes', 'compact_bytes', 'narrow_macs', 'saved_macs', 'saved_bytes')
    full, compact, left, macs, saved = (sum(getattr(row, key) or 0 for row in rows) for key in keys)
    sizes = f'{short(full):>8} {short(compact):>8}{narrow(left)}'
    lines.append(f'{"all":<28} {"":>9} {sizes}   {short(macs)}, {short(saved)}')
    lines.append('channels: of the outputs that keep a weight; float32, compact: bytes in such a file;')
    if known:
        share = left / sum(row.macs for row in costs.layers if row.weight)
        lines.append(f'narrow: MACs of the forward pass for one image, without dead channels; {share:.3f} of all;')
    lines.append('2:4: MACs of the forward pass for one image, bytes of weights of 16 bits; or why there is no kernel')
    return lines if known else [*lines, costs.not_narrowed]


def grid(ways: dict[str, dict[str, float]]) -> list[str]:
    """One line for each part and one for the sum, a column for each way of training."""
    parts = list(dict.fromkeys(part for amounts in ways.values() for part in amounts))
    head = f'  {"":<18}' + ''.join(f'{way:>14}' for way in ways)
    rows = [(part, [amounts.get(part, 0) for amounts in ways.values()]) for part in parts]
    rows.append(('all', [sum(amounts.values()) for amounts in ways.values()]))
    return [head, *(f'  {part:<18}' + ''.join(f'{short(cell):>14}' for cell in cells) for part, cells in rows)]
