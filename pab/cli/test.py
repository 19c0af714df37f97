"""Evaluate a checkpoint, a compact file or a network that comes with pab, on the test set of a config.

pab test pab/quickstart work_dirs/quickstart/epoch_20.pth --csv predictions.csv

Where scikit-learn is installed, a table has accuracy and precision of each class, and balanced accuracy and calibration
error of all (pab/evaluation/classes.py). --csv writes the prediction for each image.

With --sparse, linear layers and 1x1 convolutions with 2:4 weights (of a pruner with scope='2:4' and density=0.5) run on
the GPU's sparse kernels, in bfloat16. The log says which do, and why the others run as they are.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from torch.utils.data import SequentialSampler

from ..contrib import sparse
from ..evaluation import Accuracy, ClassAccuracy, ClassResults
from ..files import check_free, csv_text, find_trained, write_atomically
from ..run import PabRunner
from ..run.launch import add_run_arguments, errors_in_one_line, load_config, run

SHOWN = 50  # rows of the table


class UseSparseKernels(Hook):
    """Change the layers when the checkpoint is loaded."""

    priority = 'LOWEST'  # when an averaged copy has taken the network's place

    def before_test_epoch(self, runner: PabRunner) -> None:
        """Change them, and say which."""
        runner.logger.info(sparse.describe(sparse.use_sparse_kernels_(runner.network)))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint, a compact file (.pab), or a name')
    parser.add_argument('--csv', type=Path, metavar='OUT', help='write the prediction for each image to this file')
    parser.add_argument('--force', action='store_true', help='write over that file if it is there')
    parser.add_argument('--sparse', action='store_true', help='multiply by 2:4 weights on sparse kernels')
    return parser.parse_args()


def test(runner: PabRunner, use_sparse_kernels: bool, csv: Path | None) -> None:
    if use_sparse_kernels:
        runner.register_hook(UseSparseKernels())
    metric = class_metric(runner, csv is not None)
    runner.test()
    if metric and (results := metric.results_by_class):  # of the main process
        runner.logger.info(table(results))
        if csv:
            write_atomically(predictions(results, runner.test_loop.dataloader.dataset), csv)


def class_metric(runner: PabRunner, needed: bool) -> ClassAccuracy | None:
    """The metric by class of a test, added to it if it has none; None where it does not fit the others or cannot be.

    Raises:
        ImportError, ValueError: it is needed and there is none, or the order of the images is not that of the data set.
    """
    if (loop := runner.test_loop) is None:  # the test itself will say so
        return None
    evaluator, sampler = loop.evaluator, loop.dataloader.sampler
    if needed and not isinstance(sampler, SequentialSampler) and getattr(sampler, 'shuffle', True):
        raise ValueError('--csv: test_dataloader.sampler must not shuffle, for predictions to be told to their images')
    for metric in evaluator.metrics:
        if isinstance(metric, ClassAccuracy):
            return metric
    if not any(isinstance(metric, Accuracy) for metric in evaluator.metrics):  # others may get something else
        if needed:
            raise ValueError('--csv: test_evaluator needs the metric Accuracy or ClassAccuracy')
        return None
    try:
        metric = ClassAccuracy()
    except ImportError as error:
        if needed:
            raise
        runner.logger.info(f'There is no table of classes. {error}')
        return None
    metric.dataset_meta = evaluator.dataset_meta
    evaluator.metrics.append(metric)
    return metric


def table(results: ClassResults) -> str:
    """A row for each class, of more than 50 the worst; and a line for all."""

    def percent(share: float) -> str:
        return '-' if math.isnan(share) else f'{100 * share:.2f} %'

    rows = [['class', 'images', 'accuracy', 'precision', 'most often taken for']]
    classes = [' '.join(name.split()) for name in results.classes]
    for index in sorted(results.accuracy.argsort(kind='stable')[:SHOWN].tolist()):
        others = results.confusion[index].copy()
        others[index] = 0
        most = int(others.argmax())
        taken = f'{classes[most]} ({others[most]:,})' if others[most] else ''
        shares = percent(results.accuracy[index]), percent(results.precision[index])
        rows.append([classes[index], f'{results.images[index]:,}', *shares, taken])
    width = max(len(row[0]) for row in rows)
    lines = ['{:<{width}} {:>9} {:>9} {:>9}  {}'.format(*row, width=width) for row in rows]
    if len(classes) > SHOWN:
        lines.append(f'and {len(classes) - SHOWN:,} classes with a higher accuracy, or without an image')
    told = f'{results.balanced_accuracy:.2f} %, calibration error {results.calibration_error:.2f} %'
    return '\n'.join([f'By class, balanced accuracy {told}', *(f'  {line}'.rstrip() for line in lines)])


def predictions(results: ClassResults, dataset: Any) -> bytes:
    """A line of CSV for each image: its path, else its index; label, prediction, and the probability of that.

    An image without a label, such as one that cannot be read, has empty cells.
    """
    rows: list[list] = [['image', 'label', 'prediction', 'probability']]
    answers = zip(results.labels.tolist(), results.predictions.tolist(), results.confidences.tolist(), strict=True)
    for index, (label, guess, confidence) in enumerate(answers):
        cells = [results.classes[label] if label >= 0 else '', '', '']
        if label >= 0 and guess >= 0:
            cells[1:] = results.classes[guess], confidence
        rows.append([str(dataset.path(index)) if hasattr(dataset, 'path') else index, *cells])
    return csv_text(rows).encode(errors='backslashreplace')


def main() -> None:
    args = parse_args()
    if args.sparse and (lacking := sparse.missing_support()):
        sys.exit(f'error: --sparse: {lacking}')
    cfg = load_config(args)
    with errors_in_one_line():
        file = str(find_trained(args.checkpoint)) if '://' not in args.checkpoint else args.checkpoint
        cfg.load_from, cfg.resume = file, False
        if args.csv:
            check_free(args.csv, args.force)
        if file.endswith('.pab'):
            from ..compact.checkpoint import evaluate_file_  # what it needs is an extra

            evaluate_file_(cfg, file)
    run(cfg, lambda runner: test(runner, args.sparse, args.csv))
