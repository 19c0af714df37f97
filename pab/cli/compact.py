"""Store trained networks as a seed and a bit per weight.

pab compact pack pab/r18_cifar10 work_dirs/r18_cifar10/epoch_180.pth r18.pab
pab compact info r18.pab
pab compact unpack r18.pab r18.pth      # a checkpoint of plain data; --config CONFIG imports your network
pab compact sizes pab/r18_cifar10 work_dirs/r18_cifar10/epoch_180.pth ...

pab test and load_from take .pab files as they are.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import compact
from ..compact.checkpoint import as_checkpoint
from ..files import write_atomically
from ..pruners import get_masks
from ..run.checkpoint import load_safely
from ..run.launch import add_config_arguments, load_config
from ..state_dicts import MASK


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    packing = commands.add_parser('pack', help='write a compact file')
    add_config_arguments(packing)
    packing.add_argument('checkpoint', help='a checkpoint that training or pab prune wrote')
    packing.add_argument('out', type=Path, metavar='OUT.pab', help='the file to write')
    packing.add_argument('--seed', type=int, help='of the initial weights (default: what config and checkpoint say)')
    packing.add_argument('--values', choices=['float32', 'float16'], default='float32', help='all but signs and mask')
    unpacking = commands.add_parser('unpack', help='write a checkpoint')
    informing = commands.add_parser('info', help='what a file says of its network')
    for command in (unpacking, informing):
        command.add_argument('file', type=Path, metavar='FILE.pab')
    unpacking.add_argument('out', type=Path, metavar='OUT.pth', help='the file to write')
    unpacking.add_argument('--config', help='whose custom_imports register a network of your own')
    for command in (packing, unpacking):
        command.add_argument('--force', action='store_true', help='write over a file that is there')
    sizing = commands.add_parser('sizes', help='a table of sizes, beside other ways to store the same networks')
    sizing.add_argument('pairs', nargs='+', metavar='CONFIG CHECKPOINT', help='networks, two arguments each')
    args = parser.parse_args()
    if args.command == 'sizes' and len(args.pairs) % 2:
        parser.error('sizes needs a checkpoint behind each config')
    if args.command == 'pack' and args.out.suffix != '.pab':
        parser.error(f'OUT.pab must end in .pab, by which the other commands know such files, got {args.out}')
    if hasattr(args, 'force') and args.out.exists() and not args.force:
        parser.error(f'{args.out} exists; choose another file, or pass --force to write over it')
    return args


def pack_command(args: argparse.Namespace) -> None:
    cfg, checkpoint = load_config(args), load_safely(args.checkpoint)
    compact.pack(cfg, checkpoint, args.out, seed=args.seed, values=args.values)
    show(args.out)


def unpack_command(args: argparse.Namespace) -> None:
    if args.config:
        load_config(argparse.Namespace(config=args.config, cfg_options=None))
    content = io.BytesIO()
    torch.save(as_checkpoint(args.file), content)
    write_atomically(content.getvalue(), args.out)
    print(f'wrote {args.out}')


def sizes_command(args: argparse.Namespace) -> None:
    """Print a row of Markdown for each network; the times are those of one core."""
    torch.set_num_threads(1)
    columns = ['config', 'density', 'float32', 'float16', 'zipped float32', '.pab', 'mask and signs', 'pack, load']
    print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
    for config, path in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        cfg = load_config(argparse.Namespace(config=config, cfg_options=None))
        checkpoint = load_safely(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'network.pab')
            packing, network = timed(lambda: compact.pack(cfg, checkpoint, file))  # noqa: B023
            loading, _ = timed(lambda: compact.load(file))  # noqa: B023
            told = compact.info(file)
        masks = {name + MASK for name in get_masks(network)}
        weights = {name: tensor for name, tensor in network.state_dict().items() if name not in masks}
        full = sum(tensor.nbytes for tensor in weights.values())
        half = sum(t.nbytes // (2 if t.is_floating_point() else 1) for t in weights.values())
        sizes, kept, prunable = told['bytes'], told['counts']['kept'], told['counts']['prunable']
        density = kept / prunable if prunable else 1
        cells = [f'`{Path(config).stem}`', f'{density:.2f}', f'{full / 1000:,.0f} kB']
        cells += [f'{n / 1000:,.0f} kB, 1/{full / n:.1f}' for n in (half, zipped(weights), sizes['file'])]
        cells += [f'{8 * (sizes["mask"] + sizes["signs"]) / prunable:.3f} bit' if prunable else '-']
        cells += [f'{packing:.1f} s, {loading:.1f} s']
        print(f'| {" | ".join(cells)} |', flush=True)


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, which other programs disturb less than those of the clock, and the result."""
    start = time.process_time()
    result = act()
    return time.process_time() - start, result


def zipped(weights: dict[str, torch.Tensor]) -> int:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, tensor in weights.items():
            archive.writestr(name, tensor.contiguous().numpy().tobytes())
    return content.tell()


def show(file: Path) -> None:
    told = compact.info(file)
    sizes, counts = told['bytes'], told['counts']
    print(f'{file}: {sizes["file"]:,} bytes, {4 * counts["numbers"] / sizes["file"]:.1f} times smaller than float32')
    print(f'  network        {told["network"]}')
    init = told['init']
    if told['signs']:  # then there is a seed
        share = '' if init['fan_share'] == 1 else f', fan_share {init["fan_share"]}'
        own = f'; one for each of {len(told["constant"])} tensors' if told['constant'] else ''
        print(f'  magnitudes     {init["scheme"]!r}{share}, seed {init["seed"]}{own}')
    if prunable := counts['prunable']:
        kept, bits = counts['kept'], 8 * sizes['mask'] / prunable
        print(f'  density        {kept / prunable:.4f} ({kept:,} of {prunable:,} prunable weights)')
        print(f'  mask           {sizes["mask"]:,} bytes, {bits:.3f} bit a prunable weight')
    drawn = ', all as drawn' if told['signs'] and told['drawn'] else ''
    print(f'  signs          {sizes["signs"]:,} bytes, of {len(told["signs"])} tensors{drawn}')
    print(f'  other values   {sizes["values"]:,} bytes, {told["values"]!r}')
    print(f'  header         {sizes["header"]:,} bytes')
    for key in ('input_shape', 'preprocessing', 'classes', 'pruning', 'written_by'):
        text = json.dumps(told[key])
        print(f'  {key:<14} {text if len(text) < 400 else text[:400] + " ..."}')


def main() -> None:
    args = parse_args()
    act = {'pack': pack_command, 'unpack': unpack_command, 'info': lambda a: show(a.file), 'sizes': sizes_command}
    try:
        act[args.command](args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'error: {error}')
