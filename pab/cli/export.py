r"""Write a trained network for other programs: as ONNX, or as a program of torch.export.

    pab export work_dirs/quickstart/epoch_20.pth digits.onnx --format onnx \
        --config pab/quickstart
    pab export digits.pab digits.pt2 --format torch

FILE is a checkpoint, a compact file (.pab) or the name of a network that comes with pab. The network in the new
file takes normalised images. The outputs for 100 images, of the config's test set where there is one, are compared with
the model's before the file is written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import default_collate

from ..costs.narrow import compare_networks
from ..datasets import class_names, names_for, number_classes_
from ..export import FORMATS, check_target, export
from ..files import find_trained
from ..narrowing import narrow, plain_copy
from ..prediction import load
from ..registry import DATASETS
from ..run.launch import KeyValue, errors_in_one_line, load_config

IMAGES = 100


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path, help='a checkpoint that training wrote, or a compact file (.pab)')
    parser.add_argument('out', type=Path, help='the file to write')
    parser.add_argument('--format', required=True, choices=FORMATS, help='onnx (.onnx) or torch.export (.pt2)')
    parser.add_argument('--config', help='of the training: names test images, and imports classes of your own')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, metavar='KEY=VALUE', help='replace its values')
    parser.add_argument(
        '--narrow', action='store_true', help='leave out the channels that pruning has left without use'
    )
    parser.add_argument('--fold-batch-norm', action='store_true', help='merge BatchNorm into the convolution before it')
    parser.add_argument(
        '--tolerance', type=float, default=1e-5, help='largest difference of a logit, as a share of the largest (1e-5)'
    )
    parser.add_argument('--force', action='store_true', help='write over a file that is there')
    args = parser.parse_args()
    with errors_in_one_line():
        args.file, args.out = find_trained(args.file), args.out.expanduser()
    if not args.file.is_file():
        sys.exit(f'error: there is no file {args.file}')
    if args.cfg_options and args.config is None:
        sys.exit('error: --cfg-options changes a config, and there is none; add --config CONFIG')
    return args


def real_images(cfg: Config | None, classes: Sequence[str]) -> tuple[Tensor | None, list[str], str]:
    """100 images of the config's test set, (100, C, H, W), the names of the classes, and where the images come from.

    The network's classes are ``classes``; where they are empty, those of the test set. ValueError if it has others.
    """
    if cfg is None or not (cfg.get('test_dataloader') or {}).get('dataset'):
        return None, list(classes), 'no test set is known'
    try:
        dataset = DATASETS.build(cfg.test_dataloader['dataset'])
        # spread over the set, which may be in the order of its classes; one of fewer images is repeated
        images = default_collate([dataset[i * len(dataset) // IMAGES] for i in range(IMAGES)])['images']
    except (OSError, ImportError) as error:
        return None, list(classes), f'the test set cannot be read: {error}'
    if classes:
        classes = names_for(classes, class_names(dataset))
        number_classes_(dataset, classes, 'test_dataloader', 'the network')
    return (
        images,
        list(classes or class_names(dataset) or ()),
        f'{min(IMAGES, len(dataset))} images of {type(dataset).__name__}',
    )


def random_images(shape: Sequence[int] | None, pixels: bool) -> Tensor:
    """100 images from a fixed seed: pixels, or normal numbers for a network whose normalisation is not known."""
    if not shape:
        sys.exit(
            'error: there are no images, and their shape is not known; give a config with a test set, or '
            '--config CONFIG --cfg-options "model.input_shape=(C, H, W)"'
        )
    generator = torch.Generator().manual_seed(0)
    if pixels:
        return torch.randint(256, (IMAGES, *shape), dtype=torch.uint8, generator=generator)
    return torch.randn(IMAGES, *shape, generator=generator)


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args) if args.config else None
    model = load(args.file, cfg)
    known, shape = model.preprocessing, model.input_shape
    normalised = {'mean', 'std'} <= known.keys()
    images, classes, source = real_images(cfg, model.classes)
    if images is None:
        images, source = random_images(shape, normalised), f'{IMAGES} random images ({source})'
    images = model.preprocess({'images': images}, False)['images']
    if not images.is_floating_point():
        images = random_images(images.shape[1:], False)
        source = f'{IMAGES} random images (nothing says how pixels are normalised)'

    metadata = {'input': 'images: float32 (N, C, H, W), pixels in [0, 1] in the order RGB, minus mean, divided by std'}
    metadata |= {'output': 'logits: float32 (N, classes)', 'input_shape': list(images.shape[1:])}
    if not normalised:
        metadata['input'] = 'images: float32 (N, C, H, W), as in training'
    metadata |= known
    if classes:
        metadata['classes'] = classes
    options = {'fold_batch_norm': args.fold_batch_norm, 'tolerance': args.tolerance, 'overwrite': args.force}
    small = narrow(model.network, tuple(images.shape[1:]), args.tolerance) if args.narrow else None
    result = export(model.network, args.out, images, args.format, network=small, metadata=metadata, **options)

    print(f'{args.out}: {result.size:,} bytes')
    for key, value in metadata.items():
        text = str(value)
        print(f'  {key:<12} {text if len(text) < 200 else text[:200] + " ..."}')
    if small is not None:
        try:
            told = compare_networks(plain_copy(model.network), small, tuple(images.shape[1:])).splitlines()
        except Exception as error:  # the file is written, and a forward pass can do anything
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            told = [f'not counted, as the network does not run on the meta device: {problem}']
        for key, line in zip(['narrow'] + [''] * len(told), told, strict=False):
            print(f'  {key:<12} {line}')
    before, left = result.batch_norms
    if args.fold_batch_norm:
        why = '; the others do not follow a convolution that only they read' if left else ''
        print(f'  batch norm   {before - left} of {before} layers folded{why}')
    if result.difference is None:
        print('  NOT CHECKED: onnxruntime is not installed; pip install it, and export again')
    else:
        print(f'  checked      by {source}, in batches of 1 and {len(images)}: the same best classes,')
        print(f'               and logits of up to {result.largest:.1f} that differ by {result.difference:.1e} at most')


def main() -> None:
    args = parse_args()
    with errors_in_one_line():
        check_target(args.out, args.format, args.force)
        run(args)
