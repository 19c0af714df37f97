"""Print a config as a run sees it, list the configs that come with pab, or copy one into this folder.

pab config pab/r18_cifar10 --cfg-options train_cfg.max_epochs=8   with everything that it inherits
pab config --list
pab config --copy pab/quickstart
"""

import argparse
from pathlib import Path

from ..files import write_atomically
from ..run.config_files import config_names, first_comment, read_for_elsewhere
from ..run.launch import add_config_arguments, errors_in_one_line, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser, required=False)
    parser.add_argument('--list', action='store_true', help='one line for each config and comparison')
    parser.add_argument('--copy', metavar='NAME', help='write a copy here, which goes on to inherit from pab')
    args = parser.parse_args()
    if sum(map(bool, (args.config, args.list, args.copy))) != 1:
        parser.error('give one of CONFIG, --list and --copy NAME')
    if args.cfg_options and not args.config:
        parser.error('--cfg-options needs CONFIG, whose values it replaces')
    return args


def main() -> None:
    args = parse_args()
    with errors_in_one_line():
        if args.list:
            known = config_names()
            width = max(map(len, known))
            print('\n'.join(f'{name:<{width}}  {first_comment(path)}' for name, path in known.items()))
        elif args.copy:
            text, copy = read_for_elsewhere(args.copy), Path(Path(args.copy).name).with_suffix('.py')
            if copy.exists():
                raise FileExistsError(f'{copy} exists; move it, or copy in another folder')
            write_atomically(text.encode(), copy)
            print(copy)
        else:
            print(load_config(args).pretty_text)
