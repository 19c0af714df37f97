"""Say what a config's network and training cost, in multiply-accumulates, bit-operations and bytes.

python tools/analyze.py configs/pab/r18_cifar10.py
python tools/analyze.py configs/pab/r18_cifar10.py work_dirs/r18_cifar10/epoch_180.pth --json costs.json

Without a checkpoint, the network is initialised and pruned as the config says, which takes as long as it does in
training; pab/costs.py has the formulas.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pab.run.launch import add_config_arguments, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='whose masks count (default: prune anew, as the config says)')
    parser.add_argument('--train-images', type=int, help='images of an epoch (default: those of the training set)')
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    masks = masks_of_checkpoint(args.checkpoint) if args.checkpoint else prune_anew(cfg)
    images = args.train_images or len(DATASETS.build(cfg.train_dataloader.dataset))
    costs = run_costs(cfg, masks, images)
    print(tables(costs))
    if args.json:
        args.json.write_text(json.dumps(asdict(costs), indent=1))


def tables(costs: RunCosts) -> str:
    """The costs as text."""
    lines = [f'{"layer":<28} {"kind":<12} {"weight":<18} {"output":<14} {"density":>8} {"MACs":>9} {"sparse":>9}  bits']
    for row in costs.layers:
        shapes = ('x'.join(map(str, shape)) for shape in (row.weight, row.output))
        weight, output = shapes
        bits = 'x'.join(map(str, row.gradient_bits))
        lines.append(
            f'{row.name:<28} {row.kind:<12} {weight:<18} {output:<14} {row.kept / row.total:>8.4f} '
            f'{short(row.macs):>9} {short(row.sparse_macs):>9}  {bits}'
        )
    lines.append('MACs: of the forward pass for one image, dense and with pruned weights skipped; bits: of the two')
    lines.append('operands of the weight gradient (all others have 32)')
    titles = {
        f'one step, {costs.batch} images': costs.step,
        f'{costs.epochs} epochs, {costs.steps:,} steps': costs.schedule,
    }
    for title, ways in titles.items():
        for unit in ('macs', 'bit_operations'):
            lines += ['', f'{title}: {unit.replace("macs", "MACs").replace("_", "-")}', *by_way(ways, unit)]
    lines += ['', f'bytes while training, batch of {costs.batch}']
    lines += grid(
        {way: {what: f'{short(size)}B' for what, size in kinds.items()} for way, kinds in costs.storage.items()}
    )
    return '\n'.join(lines)


def by_way(ways: dict[str, Work], unit: str) -> list[str]:
    """One line for each phase and one for the total, a column for each way of training."""
    cells = {}
    for way, work in ways.items():
        phases = getattr(work, unit)
        cells[way] = {phase: short(amount) for phase, amount in phases.items()}
        cells[way]['all'] = short(sum(phases.values()))
    return grid(cells)


def grid(columns: dict[str, dict[str, str]]) -> list[str]:
    """Columns of cells by row name as aligned lines."""
    rows = sorted({row: None for cells in columns.values() for row in cells}, key=ORDER.index)
    head = f'  {"":<18}' + ''.join(f'{way:>16}' for way in columns)
    return [head, *(f'  {r:<18}' + ''.join(f'{cells.get(r, "-"):>16}' for cells in columns.values()) for r in rows)]


def short(amount: float) -> str:
    """A number with three digits and k, M, G, T, P or E."""
    for exponent, letter in ((18, 'E'), (15, 'P'), (12, 'T'), (9, 'G'), (6, 'M'), (3, 'k')):
        if amount >= 10**exponent:
            return f'{amount / 10**exponent:.3g} {letter}'
    return f'{amount:.3g} '


if __name__ == '__main__':
    main()
