"""tools/test.py: the table of classes and the predictions of a test, as a file."""

import csv
import itertools
import sys

import numpy as np
import pytest

import pab
from pab import compact
from pab.cli.test import table
from pab.evaluation.classes import by_class
from pab.registry import MODELS
from tests.coloured import COLOURS, PREPROCESSING, draw
from tests.small_run import CONFIGS

CONFIG = """
_base_ = [{runtime!r}]
model = dict(type='ImageClassifier', network=dict(type='ChannelMeans'), init=None, input_shape=(3, 8, 8))
data_preprocessor = dict(type='ImagePreprocessor', mean=(0.5,) * 3, std=(0.5,) * 3)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle={shuffle}),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='ImageFolder', split='val', data_root={root!r}, size=8, resize=9),
)
test_cfg = dict()
test_evaluator = dict(type='{metric}')
"""
RUNS = itertools.count()  # mmengine names a run by config and second, and runs of one name share their log
NAMES = ['=red', 'green, x', 'blue']


@pytest.fixture
def run(tmp_path, tool):
    """A function: arguments -> what a test of a compact file printed, and its status; of blue there is no image."""
    folder = tmp_path / 'val'
    for number, colour in enumerate(('red', 'red', 'blue')):
        draw(folder / '=red' / f'{number}.png', COLOURS[colour])
    draw(folder / 'green, x' / 'a.png', COLOURS['green'])
    (folder / 'green, x' / 'b.png').write_bytes(b'no image')
    network = dict(type='ChannelMeans')

    def act(*options, classes=NAMES, shuffle=False, metric='Accuracy'):
        settings = dict(classes=classes, preprocessing=PREPROCESSING, input_shape=(3, 8, 8))
        file, config = tmp_path / 'net.pab', tmp_path / f'config_{next(RUNS)}.py'
        compact.save(MODELS.build(network), file, network=network, seed=None, signs=(), **settings)
        runtime = str(CONFIGS / '_base_' / 'runtime.py')
        config.write_text(CONFIG.format(runtime=runtime, root=str(tmp_path), shuffle=shuffle, metric=metric))
        return tool('test.py', config, file, '--work-dir', tmp_path / config.stem, *options)

    return act


@pytest.mark.parametrize('metric', ['Accuracy', 'ClassAccuracy'])
def test_table_and_predictions(run, tmp_path, metric):
    out = tmp_path / 'out' / 'predictions.csv'
    printed, status = run('--csv', out, metric=metric)
    assert status == 0, status
    lines = [line.split() for line in printed[printed.index('By class') :].splitlines()]
    # two of three red images and the green one are right; each with a probability of 0.787
    assert lines[0][:6] == ['By', 'class,', 'balanced', 'accuracy', '83.33', '%,']
    assert lines[0][6:] == ['calibration', 'error', '3.70', '%']
    assert lines[2:5] == [
        ['=red', '3', '66.67', '%', '100.00', '%', 'blue', '(1)'],
        ['green,', 'x', '1', '100.00', '%', '100.00', '%'],
        ['blue', '0', '-', '0.00', '%'],
    ]
    folder = tmp_path / 'val'
    header, *rows = csv.reader(out.open())
    assert header == ['image', 'label', 'prediction', 'probability']
    assert [row[:3] for row in rows] == [
        [f'{folder}/=red/0.png', "'=red", "'=red"],
        [f'{folder}/=red/1.png', "'=red", "'=red"],
        [f'{folder}/=red/2.png', "'=red", 'blue'],
        [f'{folder}/green, x/a.png', 'green, x', 'green, x'],
        [f'{folder}/green, x/b.png', '', ''],
    ]
    answers = pab.predict(tmp_path / 'net.pab', folder, top=1)
    assert [answer.top[0][0] for answer in answers[:4]] == ['=red', '=red', 'blue', 'green, x']
    assert [float(row[3]) for row in rows[:4]] == pytest.approx([answer.top[0][1] for answer in answers[:4]])
    assert answers[4].error


def test_refusals(run, tmp_path):
    out = tmp_path / 'predictions.csv'
    assert 'test_dataloader.sampler must not shuffle' in run('--csv', out, shuffle=True)[1]
    assert 'By class' in run(shuffle=True)[0]
    out.write_text('mine')
    assert 'exists; choose another file' in run('--csv', out)[1]
    assert out.read_text() == 'mine'
    assert run('--csv', out, '--force')[1] == 0


def test_a_file_whose_classes_do_not_fit_the_folder(run):
    status = run(classes=['red', 'green, x', 'blue'])[1]
    assert 'error: test_dataloader: has classes that the checkpoint does not have' in status
    assert 'only in test_dataloader (of 2): =red;' in status


def test_without_scikit_learn(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    printed, status = run()
    assert status == 0
    assert 'accuracy/top1: 75.0' in printed
    assert 'There is no table of classes. ClassAccuracy: needs scikit-learn' in printed
    assert 'needs scikit-learn' in run('--csv', tmp_path / 'a.csv')[1]


def test_of_many_classes_the_table_has_the_worst():
    names = [f'class\n{n}' for n in range(60)]
    labels = np.arange(60)
    results = by_class(names, labels, np.where(labels < 2, 59, labels), np.ones(60))
    lines = table(results).splitlines()
    assert len(lines) == 53
    assert lines[2].split() == ['class', '0', '1', '0.00', '%', '-', 'class', '59', '(1)']
    assert lines[-1] == '  and 10 classes with a higher accuracy, or without an image'
