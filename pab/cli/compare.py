"""Train the runs of a comparison with several seeds each, and put them side by side.

pab compare compare/cifar10_r20 --seeds 3 --jobs 2
pab compare compare/cifar10_r20 --cluster slurm --cluster-options gpus_per_node=1

The same command goes on where it was stopped. docs/compare.md says how to write a comparison.
"""

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from ..checks import check_ints
from ..command import words_of
from ..compare.cluster import CLUSTERS, JobTrainer, train_on_cluster
from ..compare.page import write_page
from ..compare.plan import COMMAND, JOBS, read_comparison
from ..compare.pool import threads_of_each, train_here
from ..compare.progress import Progress
from ..compare.tables import to_markdown
from ..compare.training import Trainer
from ..files import write_atomically
from ..run.launch import KeyValue, errors_in_one_line

SEEDS = 3
# -P: the folder that one works in may hold files named as modules are
TRAIN = [sys.executable, *['-P'] * (sys.version_info >= (3, 11)), '-m', 'pab', 'train']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'comparison', type=Path, help='a Python file that lists runs, or a name that pab config --list has'
    )
    parser.add_argument('--seeds', type=int, help=f'train with seeds 0 to SEEDS - 1 (default: {SEEDS})')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/<name of the comparison>')
    text = 'replace values of the config of every run, such as train_cfg.max_epochs=8'
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, default={}, metavar='KEY=VALUE', help=text)
    text = 'train nothing, only make the tables of all results so far, with the last --seeds and --cfg-options'
    parser.add_argument('--collect', action='store_true', help=text)
    parser.add_argument('--cluster', choices=CLUSTERS, help='train each as a job, by submitit')
    text = 'parameters of submitit.AutoExecutor, such as timeout_min=600 slurm_partition=gpu gpus_per_node=1'
    parser.add_argument('--cluster-options', nargs='+', action=KeyValue, default={}, metavar='KEY=VALUE', help=text)
    args = parser.parse_args()
    if args.cluster_options and not args.cluster:
        parser.error('--cluster-options needs --cluster')
    return args


def main() -> None:
    try:
        compare(parse_args())
    except KeyboardInterrupt:  # while no training runs
        print('\nStopped', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def compare(args: argparse.Namespace) -> None:
    folder = (args.work_dir or Path('work_dirs', 'compare', args.comparison.stem)).absolute()
    with errors_in_one_line():
        check_ints('compare', jobs=args.jobs)
        if args.collect and not folder.is_dir():
            raise FileNotFoundError(f'--collect: there is no {folder} with results; name it by --work-dir')
        seeds, options = asked(args, folder / COMMAND)
        comparison = read_comparison(args.comparison, seeds, folder, options)
        progress = Progress(comparison, folder, args.jobs, lambda line: print(line, flush=True))
        number = None
        if not args.collect:
            write_atomically(json.dumps({'seeds': seeds, 'cfg_options': options}).encode(), folder / COMMAND)
            number = train(args, folder, progress)
        progress.write_tables()
        page = write_page(folder, args.comparison.stem, comparison, progress.results)
    # not the file, which another command in the same folder may have written since
    print(f'\n{to_markdown(comparison, progress.results)}\n{page}')
    if number:
        print(f'Stopped. Go on with\n  {shlex.join(words_of(sys.argv))}')
        sys.exit(128 + number)
    if progress.failures:
        lines = '\n'.join(f'  {training.title}: {why}' for training, why in progress.failures.items())
        sys.exit(f'{len(progress.failures)} failed:\n{lines}')
    if not args.collect and progress.waiting():
        sys.exit(f'{len(progress.waiting())} trainings have no result: they were interrupted; start this again')


def asked(args: argparse.Namespace, file: Path) -> tuple[int, dict[str, Any]]:
    """The seeds and options of this command; --collect takes missing ones from the last training."""
    last = json.loads(file.read_text()) if args.collect and file.is_file() else {}
    seeds = last.get('seeds', SEEDS) if args.seeds is None else args.seeds
    return seeds, last.get('cfg_options', {}) | args.cfg_options


def train(args: argparse.Namespace, folder: Path, progress: Progress) -> int | None:
    """Train all that have no result yet; return the signal that stopped them, if one did."""
    if args.cluster:
        jobs, options = folder / JOBS, args.cluster_options
        try:
            train_on_cluster(JobTrainer(TRAIN), progress.waiting(), args.cluster, jobs, options, progress.ended)
        except KeyboardInterrupt:
            progress.tell('The jobs go on; --collect makes the tables of all results so far')
            return signal.SIGINT
        return None
    trainer = Trainer(TRAIN, threads_of_each(args.jobs), progress.tell)
    return train_here(trainer, progress.waiting(), args.jobs, progress.ended)
