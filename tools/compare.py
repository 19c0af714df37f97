"""Train the runs of a comparison with several seeds each, and put them side by side.

python tools/compare.py configs/compare/cifar10_r20.py --seeds 3 --jobs 2
python tools/compare.py configs/compare/cifar10_r20.py --cluster slurm --cluster-options gpus_per_node=1

The same command goes on where it was stopped. docs/compare.md says how to write a comparison.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path

from pab.checks import check_ints
from pab.compare.page import write_page
from pab.compare.plan import JOBS, TABLE, read_comparison
from pab.compare.pool import threads_of_each, train_here
from pab.compare.progress import Progress
from pab.compare.training import Trainer
from pab.contrib.cluster import CLUSTERS, train_on_cluster
from pab.run.launch import KeyValue, errors_in_one_line

TRAIN = [sys.executable, str(Path(__file__).resolve().with_name('train.py'))]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('comparison', type=Path, help='a Python file that lists runs')
    parser.add_argument('--seeds', type=int, default=3, help='train with seeds 0 to SEEDS - 1 (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/<name of the comparison>')
    text = 'replace values of the config of every run, such as train_cfg.max_epochs=8'
    parser.add_argument('--cfg-options', nargs='+', action=KeyValue, default={}, metavar='KEY=VALUE', help=text)
    parser.add_argument('--collect', action='store_true', help='train nothing, only make the tables of what is there')
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
        comparison = read_comparison(args.comparison, args.seeds, folder, args.cfg_options)
        progress = Progress(comparison, folder, args.jobs, lambda line: print(line, flush=True))
        number = None if args.collect else train(args, folder, progress)
        progress.write_tables()
        page = write_page(folder, args.comparison.stem, comparison, progress.results)
    print(f'\n{(folder / TABLE).read_text()}\n{page}')
    if number:
        print(f'Stopped. Go on with\n  {shlex.join(["python", *sys.argv])}')
        sys.exit(128 + number)
    if progress.failures:
        lines = '\n'.join(f'  {training.title}: {why}' for training, why in progress.failures.items())
        sys.exit(f'{len(progress.failures)} failed:\n{lines}')


def train(args: argparse.Namespace, folder: Path, progress: Progress) -> int | None:
    """Train what has no result yet; the signal that stopped it, None where none did."""
    if args.cluster:
        jobs, options = folder / JOBS, args.cluster_options
        try:
            train_on_cluster(Trainer(TRAIN), progress.waiting(), args.cluster, jobs, options, progress.ended)
        except KeyboardInterrupt:
            progress.tell('The jobs go on; --collect makes the tables of what is there')
            return signal.SIGINT
        return None
    trainer = Trainer(TRAIN, threads_of_each(args.jobs), progress.tell)
    return train_here(trainer, progress.waiting(), args.jobs, progress.ended)


if __name__ == '__main__':
    main()
