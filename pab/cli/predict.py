"""Name the likeliest classes of photographs, by a trained network.

pab predict r18.pab photos/ant.jpg more_photos --top 3
pab predict work_dirs/quickstart/epoch_20.pth digits --csv digits.csv

FILE is a compact file (.pab), a checkpoint or the name of a network that comes with pab; it says how images are resized
and normalised, and what the classes are called. A folder stands for all images in it, at any depth. An image that
cannot be read is named and left out, and the status is then 1.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.device import get_device

from ..files import check_free, csv_text, write_atomically
from ..prediction import Prediction, find_images, load, predictions
from ..run.launch import KeyValue, errors_in_one_line, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path, help='a compact file (.pab), or a checkpoint that training wrote')
    parser.add_argument('images', nargs='+', type=Path, help='image files, and folders of them')
    parser.add_argument('--top', type=int, help='classes for each image (default: 5, or all if there are fewer)')
    parser.add_argument('--csv', type=Path, metavar='OUT', help='write them to this file too')
    parser.add_argument('--force', action='store_true', help='write over that file if it is there')
    parser.add_argument('--config', help='of the training: imports classes of your own, for a checkpoint mostly')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, metavar='KEY=VALUE', help='replace its values')
    args = parser.parse_args()
    if args.cfg_options and args.config is None:
        parser.error('--cfg-options changes a config, and there is none; add --config CONFIG')
    return args


def shown(text: str | os.PathLike) -> str:
    """A name in one line, with every character that cannot be printed as its code."""
    return ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def table(answers: Sequence[Prediction]) -> str:
    """A line of CSV for each image: the file, then each class with its probability; nothing behind an unread file."""
    places = range(1, max(len(answer.top) for answer in answers) + 1)
    rows: list[list] = [['image', *(name for n in places for name in (f'class {n}', f'probability {n}'))]]
    rows += [[str(answer.image), *(cell for pair in answer.top for cell in pair)] for answer in answers]
    return csv_text(rows)


def main() -> None:
    args = parse_args()
    cfg = load_config(args) if args.config else None
    answers = []
    with errors_in_one_line():
        if args.csv:
            check_free(args.csv, args.force)
        paths = find_images(args.images)
        model = load(args.file, cfg).to(get_device())
        for answer in predictions(model, paths, args.top):
            answers.append(answer)
            if answer.error:
                print(f'{shown(answer.image)}: left out: {shown(answer.error)}', file=sys.stderr, flush=True)
            else:
                classes = ', '.join(f'{shown(name)} {100 * share:.2f} %' for name, share in answer.top)
                print(f'{shown(answer.image)}: {classes}')
        if args.csv:
            write_atomically(table(answers).encode(errors='backslashreplace'), args.csv)
    if failed := sum(bool(answer.error) for answer in answers):
        sys.exit(f'error: {failed} of {len(answers)} images have no prediction')
