"""Store trained networks as a seed and a bit per weight.

python tools/compact.py pack configs/pab/r18_cifar10.py work_dirs/r18_cifar10/epoch_180.pth r18.pab
python tools/compact.py info r18.pab
python tools/compact.py unpack r18.pab r18.pth      # a checkpoint of plain data, for tools/test.py and others
python tools/compact.py sizes configs/pab/r18_cifar10.py work_dirs/r18_cifar10/epoch_180.pth ...

tools/test.py and load_from take .pab files as they are.
"""

import argparse
import io
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from pab import compact
from pab.compact.checkpoint import as_checkpoint, pack
from pab.run.launch import add_config_arguments, load_config
from pab.run.loading import load_safely
from pab.run.storage import write_atomically


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    packing = commands.add_parser('pack', help='write a compact file')
    add_config_arguments(packing)
    packing.add_argument('checkpoint', help='a checkpoint that training or tools/prune.py wrote')
    packing.add_argument('out', type=Path, metavar='OUT.pab', help='the file to write')
    packing.add_argument('--seed', type=int, help='of the initial weights (default: what config and checkpoint say)')
    packing.add_argument('--values', choices=['float32', 'float16'], default='float32', help='all but signs and mask')
    packing.add_argument('--derive-mask', action='store_true', help='leave the mask out: loading prunes again')
    unpacking = commands.add_parser('unpack', help='write a checkpoint')
    unpacking.add_argument('out', type=Path, metavar='OUT.pth', help='the file to write')
    informing = commands.add_parser('info', help='what a file says of its network')
    for command in (unpacking, informing):
        command.add_argument('file', type=Path, metavar='FILE.pab')
    for command in (packing, unpacking):
        command.add_argument('--force', action='store_true', help='write over a file that is there')
    sizing = commands.add_parser('sizes', help='a table of sizes, beside other ways to store the same networks')
    sizing.add_argument('pairs', nargs='+', metavar='CONFIG CHECKPOINT', help='networks, two arguments each')
    args = parser.parse_args()
    if args.command == 'sizes' and len(args.pairs) % 2:
        parser.error('sizes needs a checkpoint behind each config')
    if args.command == 'pack' and args.out.suffix != '.pab':
        parser.error(f'OUT.pab must end in .pab, by which the other tools know such files, got {args.out}')
    if hasattr(args, 'force') and args.out.exists() and not args.force:
        parser.error(f'{args.out} exists; choose another file, or pass --force to write over it')
    return args


def pack_command(args: argparse.Namespace) -> None:
    checkpoint = load_safely(args.checkpoint)
    pack(load_config(args), checkpoint, args.out, seed=args.seed, values=args.values, derive_mask=args.derive_mask)
    if args.values == 'float32':
        check_equal(checkpoint, args.out)
    show(args.out)


def unpack_command(args: argparse.Namespace) -> None:
    content = io.BytesIO()
    torch.save(as_checkpoint(args.file), content)
    write_atomically(content.getvalue(), args.out)
    print(f'wrote {args.out}')


def sizes_command(args: argparse.Namespace) -> None:
    """Print a row of Markdown for each network."""
    print(
        '| config | density | float32 | float16 | float32, zipped | .pab | mask + signs | .pab, mask derived | pack, load |'
    )
    print('|---|---|---|---|---|---|---|---|---|')
    for config, path in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        cfg = load_config(argparse.Namespace(config=config, cfg_options=None))
        checkpoint = load_safely(path)
        with tempfile.TemporaryDirectory() as folder:
            stored, derived = Path(folder, 'stored.pab'), Path(folder, 'derived.pab')
            start = time.perf_counter()
            pack(cfg, checkpoint, stored)
            packed = time.perf_counter()
            check_equal(checkpoint, stored)
            loaded = time.perf_counter()
            pack(cfg, checkpoint, derived, derive_mask=True)
            files = [stored.stat().st_size, derived.stat().st_size]
            parts = compact.info(stored)['bytes']
        weights = {n: t for n, t in checkpoint['state_dict'].items() if not n.endswith('_mask')}
        masks = [t for n, t in checkpoint['state_dict'].items() if n.endswith('_mask')]
        total = sum(mask.numel() for mask in masks)
        full = sum(tensor.nbytes for tensor in weights.values())
        half = sum(t.nbytes // (2 if t.is_floating_point() else 1) for t in weights.values())
        shown = [f'{size / 1e6:.2f} MB ({full / size:.1f} x)' for size in (half, zipped(weights), files[0], files[1])]
        bits = 8 * (parts['mask'] + parts['signs']) / total
        print(
            f'| {Path(config).stem} | {sum(int(m.sum()) for m in masks) / total:.2f} | {full / 1e6:.2f} MB | {shown[0]} | {shown[1]} '
            f'| {shown[2]} | {bits:.3f} bit | {shown[3]} | {packed - start:.1f} s, {loaded - packed:.1f} s |',
            flush=True,
        )


def zipped(weights: dict[str, torch.Tensor]) -> int:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, tensor in weights.items():
            archive.writestr(name, tensor.contiguous().numpy().tobytes())
    return content.tell()


def check_equal(checkpoint: dict, file: Path) -> None:
    """Load a file that was just written, and compare every tensor of it bit by bit with the checkpoint's."""
    before = checkpoint['state_dict']
    for name, value in as_checkpoint(file)['state_dict'].items():
        same = before[name].contiguous().numpy().tobytes() == value.numpy().tobytes()
        if not same or before[name].dtype != value.dtype:
            raise compact.CompactError(f'{file} does not give back {name} bit for bit; keep the checkpoint')


def show(file: Path) -> None:
    told = compact.info(file)
    sizes, mask = told.pop('bytes'), told['mask']
    network = compact.load(file)
    weights = sum(t.nbytes for n, t in network.state_dict().items() if not n.endswith('_mask'))
    masked = sum(m.numel() for n, m in network.named_buffers() if n.endswith('_mask'))
    kept = sum(int(m.sum()) for n, m in network.named_buffers() if n.endswith('_mask'))
    print(f'{file}: {sizes["file"]:,} bytes, {weights / sizes["file"]:.1f} times smaller than float32')
    print(f'  network        {told["network"]}')
    print(f'  initial weights {told["init"]["scheme"]}, seed {told["init"]["seed"]}')
    if masked:
        print(f'  density        {kept / masked:.4f} ({kept:,} of {masked:,} prunable weights)')
        print(
            f'  mask           {mask["coding"]}, {sizes["mask"]:,} bytes, {8 * sizes["mask"] / masked:.3f} bit a weight'
        )
    print(f'  signs          {sizes["signs"]:,} bytes, of {len(told["signs"])} tensors')
    print(f'  values         {sizes["values"]:,} bytes, {told["values"]}')
    print(f'  header         {sizes["header"]:,} bytes')
    for key in ('input_shape', 'preprocessing', 'classes', 'pruning', 'written_by'):
        print(f'  {key:<14} {told[key]}')


def main() -> None:
    args = parse_args()
    act = {'pack': pack_command, 'unpack': unpack_command, 'info': lambda a: show(a.file), 'sizes': sizes_command}
    try:
        act[args.command](args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
