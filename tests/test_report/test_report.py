"""The report of a run: record, pictures, page; and the page for several runs."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from pab.contracts import counts_of
from pab.pruners import get_masks
from pab.registry import RUNNERS
from pab.report import run
from pab.report.record import FIELDS, RunRecord, rates_of, summary
from pab.report.run import CAPTIONS, distinct_names, draw_run, read_record, write_record, write_report
from tests.small_run import runner_hook, small_config

BROWSERS = [shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome')]
METRICS = [dict(type='Accuracy', topk=(1,)), dict(type='ClassAccuracy')]
CHROMIUM = next((found for found in BROWSERS if found), None)


class Watch(Hook):
    """Keeps the weights of the start and, after each epoch, what the report should say."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.flips, self.changed = [], []

    def before_train(self, runner):
        self.start = {n: p.detach().clone() for n, p in runner.network.named_parameters()}

    def after_train_epoch(self, runner):
        network = runner.network
        weights, masks = dict(network.named_parameters()), get_masks(network)
        counts = counts_of(runner.optimizers, 'tensor_flips')
        self.flips.append({name: int(counts[weights[name]]) for name in masks})
        changed = {n: (weights[n].sign() != self.start[n].sign()) & mask for n, mask in masks.items()}
        self.changed.append({n: changed[n].sum().item() / mask.sum().item() for n, mask in masks.items()})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run of two epochs with its watch."""
    cfg = small_config(tmp_path_factory.mktemp('report') / 'run', digits=True, report=True, val_evaluator=METRICS)
    runner, watch = RUNNERS.build(cfg), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


@pytest.fixture
def record(trained):
    """The record of that run, to be changed at will."""
    return read_record(Path(trained[0].work_dir))


@pytest.fixture
def undrawn(monkeypatch):
    """Draw no picture, which takes a second for each page."""
    monkeypatch.setattr(run, 'draw_run', lambda record: {})


def test_what_is_recorded(trained, record):
    runner, watch = trained
    steps, masks = len(runner.train_dataloader), get_masks(runner.network)
    epochs, rates = record['series']['flip rate']
    assert epochs == [1, 2]
    for name, mask in masks.items():
        layer, kept = name.removesuffix('.weight'), int(mask.sum())
        first, total = (flips[name] for flips in watch.flips)
        assert record['layers']['flip rate'][layer] == [first / (kept * steps), (total - first) / (kept * steps)]
        assert record['layers']['changed signs'][layer] == [changed[name] for changed in watch.changed]
        assert record['layers']['density'][layer] == kept / mask.numel()
        assert all(0 < share <= 1 for share in record['layers']['gradients kept'][layer])
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert rates[0] == pytest.approx(sum(watch.flips[0].values()) / (kept * steps))
    losses = runner.message_hub.log_scalars['train/loss'].data[0]
    assert record['series']['training loss'][1] == pytest.approx([losses[:steps].mean(), losses[steps:].mean()])
    assert set(record['seconds']) >= {'pruning', 'training', 'validation', 'data', 'checkpoints'}
    assert record['origin']['seed'] == runner.seed
    # those that the epoch ran at, not those of the next one
    assert record['series']['adaptivity rate of signs'][1] == pytest.approx([1e-2, 1.5e-3])
    assert record['series']['learning rate of sgd'][1] == pytest.approx([0.1, 0.01])


def test_report_after_a_run(trained):
    runner, _ = trained
    assert (Path(runner.work_dir) / 'report' / 'density.png').read_bytes().startswith(b'\x89PNG')
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    summary = log[log.index('Trained 2 epochs') :]
    for part in ('accuracy', 'density', '0.3', 'flips', 'epoch_2.pth', 'scalars.json', 'report.html'):
        assert part in summary
    scalars = [
        json.loads(line) for line in (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    ]
    assert any('flips/epoch' in line and line['step'] == 2 for line in scalars)


def test_the_confusions_are_those_of_the_last_validation(trained, record):
    runner, _ = trained
    results = runner.val_loop.evaluator.metrics[1].results_by_class
    confusion = record['confusion']
    assert confusion['classes'] == [str(digit) for digit in range(10)]
    assert confusion['counts'] == results.confusion.tolist()
    assert sum(confusion['images']) == 32
    right = sum(row[n] for n, row in enumerate(confusion['counts']))
    assert 100 * right / 32 == record['series']['test accuracy'][1][-1]
    assert confusion['balanced_accuracy'] == record['series']['balanced accuracy'][1][-1]
    kept = torch.load(Path(runner.work_dir) / 'epoch_2.pth', weights_only=True)['report']['record']['confusion']
    assert kept['counts'] != [] and kept['of'] == 10
    older = RunRecord()
    older.load({'series': {}, 'layers': {}, 'seconds': {}})  # of a checkpoint without confusions
    assert older.confusion is None


def test_the_numbers_of_a_run(trained, record):
    runner, watch = trained
    numbers, masks = record['numbers'], get_masks(runner.network).values()
    kept, prunable = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    accuracies = runner.message_hub.log_scalars['val/accuracy/top1'].data[0].tolist()
    work = runner_hook(runner, 'CostHook').work
    assert numbers.pop('seconds') > 0
    assert numbers == {
        'epoch': 2,
        'max_epochs': 2,
        'accuracy': accuracies[-1],
        'metric': 'accuracy/top1',
        'best_accuracy': max(accuracies),
        'best_epoch': accuracies.index(max(accuracies)) + 1,
        'density': kept / prunable,
        'kept': kept,
        'prunable': prunable,
        'flips': sum(watch.flips[-1].values()),
        'macs': sum(work.macs.values()),
        'bit_operations': sum(work.bit_operations.values()),
    }


def test_the_rows_of_a_summary():
    numbers = dict(accuracy=97.5, best_accuracy=98.25, best_epoch=7, density=0.25, kept=1000, prunable=4000)
    numbers |= dict(flips=1234, macs=12_300_000_000, bit_operations=4 * 10**15)
    assert summary(numbers) == [
        ('accuracy', '97.50 % (best 98.25 % at epoch 7)'),
        ('density', '0.2500 (1,000 of 4,000 prunable weights)'),
        ('flips', '1,234'),
        ('training', '12.3G MACs, 4P bit-operations'),
    ]
    assert summary(dict.fromkeys(numbers)) == []


def test_the_density_of_used_weights(tmp_path, undrawn):
    cfg = small_config(
        tmp_path,
        digits=True,
        report=True,
        train_cfg=dict(max_epochs=1),
        model=dict(converter=dict(_delete_=True, type='EdgePopup', density=0.5, layers=['!name:conv1', 'Conv2d'])),
        optim_wrapper=dict(optimizers=dict(signs=dict(_delete_=True, type='SGD', owns=['Conv2d.scores'], lr=0.1))),
        default_hooks=dict(prune=None, ar_decay=None, flips=None),
    )
    RUNNERS.build(cfg).train()
    record = read_record(tmp_path)
    assert record['numbers']['kept'] * 2 == record['numbers']['prunable'] == 1210 - 18  # without the first layer
    assert set(record['layers']['density'].values()) == {0.5}
    assert record['numbers']['flips'] is None


def test_the_page_needs_nothing_else_and_has_a_caption_for_each_picture(trained, record):
    folder = Path(trained[0].work_dir)
    page = (folder / 'report.html').read_text()
    pictures = {path.stem for path in (folder / 'report').iterdir()}
    assert pictures == {*draw_run(record)} == {*CAPTIONS} - {'moves_by_layer'}  # no weight of this run moves
    assert len(pictures) == page.count('<img') == page.count('<figcaption>') == 10
    assert len(page) < 2_000_000
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for text in ('adaptivity_rate', 'seed: 0', 'torch: ', 'density'):
        assert text in page


def test_a_resumed_run_goes_on_with_its_record(trained, record, tmp_path, undrawn):
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copy(Path(trained[0].work_dir) / 'epoch_1.pth', folder)
    RUNNERS.build(small_config(folder, digits=True, resume=True, report=True, val_evaluator=METRICS)).train()
    resumed = read_record(folder)
    assert resumed['series'] == record['series']
    assert resumed['layers'] == record['layers']
    assert resumed['seconds']['pruning'] == pytest.approx(record['seconds']['pruning'])


def test_a_value_of_an_epoch_is_replaced():
    record = RunRecord()
    for value in (1.0, 2.0):
        record.add('loss', 2, value)
        record.add_layers('flips', 2, {'conv': value})
    assert record.as_curves() == {'loss': ([2], [2.0])}
    assert record.as_tables(3) == {'flips': {'conv': [0.0, 2.0, 0.0]}}


def test_runs_without_signs_have_fewer_pictures(record):
    bare = {**record, 'layers': {}, 'series': {'test accuracy': [[1], [50.0]]}, 'confusion': None}
    assert set(draw_run(bare)) == {'accuracy', 'seconds'}


def test_one_page_for_several_runs(record, tmp_path, tool, undrawn):
    a, b = folders = [tmp_path / name / 'seed_0' for name in 'ab']
    for folder in folders:
        write_record(folder, {**record, 'name': 'seed_0'})
    assert tool('report.py', a, b, '--out', tmp_path / 'both.html')[1] == 0
    page = (tmp_path / 'both.html').read_text()
    assert page.count('<img') == 3
    assert '<td>a/seed_0</td>' in page
    assert '<td>b/seed_0</td>' in page
    for runs, out, message in (
        ([a, b], 'both.html', 'both.html exists'),
        ([a, a], 'twice.html', 'seed_0 is given twice'),
        ([tmp_path], 'none.html', 'holds no report.json'),
    ):
        assert message in tool('report.py', *runs, '--out', tmp_path / out)[1]
    assert tool('report.py', a)[1] == 0
    assert (a / 'report.html').is_file()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda record: [], "it lacks 'name'"),
        (lambda record: '{', 'is no record of a run: Expecting'),
        *((lambda record, key=key: {**record, key: None}, f"it lacks '{key}'") for key in FIELDS),
    ],
)
def test_a_file_that_is_no_record(record, tmp_path, change, message):
    record = change(record)
    (tmp_path / 'report.json').write_text(record if isinstance(record, str) else json.dumps(record))
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path)


CONFUSION = dict(
    classes=['a', 'b'], counts=[[2, 1], [0, 1]], images=[3, 1], of=2, balanced_accuracy=None, calibration_error=None
)


def test_a_confusion_without_numbers_is_drawn(record):
    assert 'confusion' in draw_run({**record, 'confusion': CONFUSION})  # as after a validation of NaN logits


@pytest.mark.parametrize(
    'change',
    [
        dict(results=[1]),
        dict(series={'test accuracy': [[1], [10**400]]}),  # a whole number in JSON, and no float
        dict(layers={'flip rate': [0.5]}),
        dict(series={'test accuracy': [[1, 2], [1e308, -1e308]]}),
        dict(confusion={'of': 3}),
    ],
    ids=str,
)
def test_a_record_whose_parts_cannot_be_drawn(record, tmp_path, tool, change):
    (tmp_path / 'report.json').write_text(json.dumps(record | dict(series={}, layers={}, confusion=None) | change))
    told = tool('report.py', tmp_path)[1]
    assert told.startswith('error: a report.json cannot be drawn: ') and '\n' not in told


@pytest.mark.parametrize(
    ('folders', 'names'),
    [
        (['x/a', 'x/b'], ['a', 'b']),
        (['a/seed_0', 'b/seed_0', 'a/seed_1'], ['a/seed_0', 'b/seed_0', 'seed_1']),
        (['/a', '/x/a'], ['/a', 'x/a']),
    ],
)
def test_runs_are_named_by_the_shortest_ends_that_tell_them_apart(folders, names):
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_what_is_not_finite_is_none_in_the_file_and_a_gap_in_the_pictures(record, tmp_path):
    record['series'] = {'test accuracy': [[1, 2, 3], [50.0, math.nan, math.inf]]}
    record['layers'], record['confusion'] = {'flip rate': {'conv': [0.5, math.nan]}}, None
    write_report(tmp_path, record)
    text = (tmp_path / 'report.json').read_text()
    assert 'NaN' not in text and 'Infinity' not in text
    again = read_record(tmp_path)
    assert again['series'] == {'test accuracy': [[1, 2, 3], [50.0, None, None]]}
    assert again['layers'] == {'flip rate': {'conv': [0.5, None]}}
    write_report(tmp_path, again)


def test_every_rate_has_a_line_with_its_own_values(record):
    wrapper = OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD([{'params': [torch.ones(1)], 'lr': lr} for lr in rates], lr=1.0))
            for name, rates in (('sgd', [0.1]), ('latent', [1.0, 0.5]))
        }
    )
    found = rates_of(wrapper)
    assert found == {
        'learning rate of sgd': 0.1,
        'learning rate of latent, group 0': 1.0,
        'learning rate of latent, group 1': 0.5,
    }
    assert rates_of(OptimWrapper(torch.optim.SGD([torch.ones(1)], lr=0.3))) == {'learning rate': 0.3}
    record['series'] = {name: [[1, 2], [rate, rate / 2]] for name, rate in found.items()}
    lines = draw_run(record)['rates'].axes[0].lines
    assert {line.get_label(): list(line.get_ydata()) for line in lines} == {
        name: [rate, rate / 2] for name, rate in found.items()
    }


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine: apt-get install chromium')
@pytest.mark.parametrize('width', [400, 1400])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_in_a_browser(trained, tmp_path, width, scheme):
    page = (Path(trained[0].work_dir) / 'report.html').read_text()
    look = """<script>addEventListener('load', () => { const s = getComputedStyle(document.body);
      const shown = [...document.images].filter(i => i.naturalWidth > 0 && i.width > 300).length;
      const overflow = document.documentElement.scrollWidth > innerWidth;
      document.title = JSON.stringify({shown, overflow, ink: s.color, paper: s.backgroundColor}) })</script>"""
    file = tmp_path / 'page.html'
    file.write_text(page.replace('</body>', look + '</body>'))
    seen = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr', '--dump-dom',
         f'--user-data-dir={tmp_path / "profile"}', f'--window-size={width},900',
         f'--blink-settings=preferredColorScheme={0 if scheme == "dark" else 1}', file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'CONSOLE' not in seen.stderr
    found = json.loads(re.search(r'<title>(.*?)</title>', seen.stdout).group(1))
    assert found['shown'] == page.count('<img')
    assert not found['overflow']
    brightness = [sum(map(int, re.findall(r'\d+', found[key])[:3])) for key in ('ink', 'paper')]
    assert (brightness[0] > brightness[1] + 400) if scheme == 'dark' else (brightness[1] > brightness[0] + 400)


def test_the_hook_costs_a_step_nothing(trained):
    """Only the last step of an epoch is looked at; nothing is registered in between."""
    runner, _ = trained
    hook = runner_hook(runner, 'ReportHook')
    hook.before_train_iter(runner, 0)
    assert not hook._watches
    hook.before_train_iter(runner, len(runner.train_dataloader) - 1)
    assert len(hook._watches) == len(get_masks(runner.network))
    hook.after_train_iter(runner, len(runner.train_dataloader) - 1)
    weight = next(p for n, p in runner.network.named_parameters() if n == 'conv1.weight')
    assert not hook._watches
    assert not weight._post_accumulate_grad_hooks


def test_a_run_resumed_within_an_epoch_has_all_flips_of_the_epoch(tmp_path, undrawn):
    each_step = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None))
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    RUNNERS.build(small_config(whole, digits=True, report=True, default_hooks=each_step)).train()
    resumed.mkdir()
    shutil.copy(whole / 'iter_6.pth', resumed)  # of eight, four to an epoch
    RUNNERS.build(small_config(resumed, digits=True, report=True, resume=True, default_hooks=each_step)).train()
    for part in ('layers', 'series'):
        assert read_record(resumed)[part] == read_record(whole)[part]
