"""Store trained networks as a seed and a bit per weight.

pab compact pack pab/r18_cifar10 work_dirs/r18_cifar10/epoch_180.pth r18.pab
pab compact info r18.pab
pab compact unpack r18.pab r18.pth      # a checkpoint of plain data; --config CONFIG imports your network

pab test and load_from take .pab files as they are. info and unpack take the name of a network of pab, too.
"""

import argparse
import io
import json
from pathlib import Path

import torch

from .. import compact
from ..compact.checkpoint import as_checkpoint
from ..files import check_free, find_trained, write_atomically
from ..run.checkpoint import load_safely
from ..run.launch import add_config_arguments, errors_in_one_line, load_config


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
    args = parser.parse_args()
    if args.command == 'pack' and args.out.suffix != '.pab':
        parser.error(f'OUT.pab must end in .pab, by which the other commands know such files, got {args.out}')
    return args


def pack_command(args: argparse.Namespace) -> None:
    cfg, checkpoint = load_config(args), load_safely(args.checkpoint)
    compact.pack(cfg, checkpoint, args.out, seed=args.seed, values=args.values)
    show(args.out)


def unpack_command(args: argparse.Namespace) -> None:
    if args.config:
        load_config(argparse.Namespace(config=args.config, cfg_options=None))
    content = io.BytesIO()
    torch.save(as_checkpoint(find_trained(args.file)), content)
    write_atomically(content.getvalue(), args.out)
    print(f'wrote {args.out}')


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
    act = {'pack': pack_command, 'unpack': unpack_command, 'info': lambda a: show(find_trained(a.file))}
    with errors_in_one_line():
        if args.command != 'info':
            check_free(args.out, args.force)
        act[args.command](args)
