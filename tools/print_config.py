"""Print a config as a run sees it: with everything it inherits, and the options of the command line.

python tools/print_config.py configs/pab/r18_cifar10.py --cfg-options train_cfg.max_epochs=8
"""

import argparse

from pab.run.launch import add_config_arguments, load_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    print(load_config(parser.parse_args()).pretty_text)


if __name__ == '__main__':
    main()
