"""The costs that a run counts: against the prediction from its config, by hand, and through interruptions."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from pab.costs.count import Work, count_layers, pruning_work, step_work
from pab.costs.run import masks_of_config, run_costs
from pab.hooks import CostHook
from pab.pruners import get_masks
from pab.registry import MODELS, PRUNERS, RUNNERS
from pab.report.run import write_record
from tests.small_run import QUICKSTART, runner_hook, small_config

pytestmark = pytest.mark.usefixtures('untraced')
IMAGES = 128  # of an epoch of the tiny run
EACH_STEP = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None))
NO_FILES = dict(checkpoint=dict(save_best=None, interval=99))


def trained(cfg, *hooks):
    runner = RUNNERS.build(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def work_of(runner):
    return runner_hook(runner, 'CostHook').work


def predicted(cfg, masks, images):
    """The work of a run over so many images an epoch, from the costs of its layers; pruned once, if at all."""
    settings, epochs = cfg.default_hooks.get('prune'), cfg.train_cfg.max_epochs
    loader, each = cfg.train_dataloader, cfg.optim_wrapper.get('accumulative_counts', 1)
    passes = images // loader.batch_size if loader.get('drop_last') else math.ceil(images / loader.batch_size)
    images = min(images, passes * loader.batch_size)
    updates = [passes * epoch // each for epoch in range(epochs)] + [math.ceil(passes * epochs / each)]
    dense = {name: torch.ones_like(mask) for name, mask in masks.items()}
    work, last_dense = Work(), settings.get('epoch', 0) if settings else 0
    if settings:
        network, samples = MODELS.build(cfg.model.network), settings.get('data', {}).get('num_samples', 100)
        work = pruning_work(PRUNERS.build(settings.pruner), network, cfg.model.input_shape, samples)
    for kept, first, last in ((dense, 0, last_dense), (masks, last_dense, epochs)):
        layers = run_costs(cfg, kept).layers
        work = work.plus(step_work(layers, images * (last - first), updates[last] - updates[first]))
    return work


SNIP = dict(type='PruneHook', pruner=dict(type='SNIP', density=0.3), data=dict(num_samples=16))
CASES = {
    'the quickstart': {},
    'a smaller last batch, and two passes for a step': dict(
        train_dataloader=dict(batch_size=50), optim_wrapper=dict(accumulative_counts=2)
    ),
    'two passes for a step, the last alone': dict(
        train_dataloader=dict(batch_size=50, drop_last=True), optim_wrapper=dict(accumulative_counts=3)
    ),
    'a dense epoch': dict(default_hooks=dict(prune=dict(epoch=1))),
    'dense': dict(default_hooks=dict(prune=None)),
    'edge-popup': dict(
        model=dict(converter=dict(_delete_=True, type='EdgePopup', density=0.4)),
        optim_wrapper=dict(optimizers=dict(signs=dict(_delete_=True, type='SGD', owns=['Conv2d.scores'], lr=0.1))),
        default_hooks=dict(prune=None, ar_decay=None, flips=None),
    ),
}


# by default the recipe, and a smaller last batch; the others repeat parts of these
SLOW = {'dense', 'two passes for a step, the last alone', 'a dense epoch', 'edge-popup'}


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_a_run_costs_what_its_config_predicts_to_the_last_digit(tiny_config, case):
    cfg = tiny_config(**CASES[case])
    runner = trained(cfg)
    work = work_of(runner)
    assert work == predicted(cfg, get_masks(runner.network), IMAGES)
    assert all(type(amount) is int for phases in (work.macs, work.bit_operations) for amount in phases.values())


@pytest.mark.slow
def test_an_epoch_of_the_quickstart_s_images(tmp_path):
    cfg = small_config(tmp_path, digits=True, train_cfg=dict(max_epochs=1))
    cfg.train_dataloader = type(cfg).fromfile(str(QUICKSTART)).train_dataloader
    runner = trained(cfg)
    images = len(runner.train_dataloader.dataset)
    assert images % cfg.train_dataloader.batch_size  # the last batch is smaller
    assert work_of(runner) == predicted(cfg, masks_of_config(cfg), images)


def test_every_shot_counts_from_its_epoch_on(tiny_config):
    """Three epochs, the first dense, with a shot of SNIP, which reads 16 images, before each of the others."""
    cfg = tiny_config(train_cfg=dict(max_epochs=3))
    cfg.default_hooks.prune = dict(SNIP, epoch=2, shots=2)

    runner = trained(cfg)
    network = runner.network
    full = {name: torch.ones_like(mask) for name, mask in get_masks(network).items()}
    dense = count_layers(network, (1, 8, 8), full, runner.sign_trained)
    counted = work_of(runner)
    total = sum(mask.numel() for mask in full.values())
    rest = 3 * sum(row.kept for row in dense if not row.sign_trained)  # the classifier, updated by SGD
    kept = [total, total - int(total * 0.35), total - int(total * 0.7)]
    assert counted.macs['optimizer'] == 4 * (2 * sum(kept) + 3 * rest)
    # forward, weight gradient and all input gradients but the first: of the convolutions, which are pruned, and, as a
    # score needs it, the input gradient of the classifier
    convs = [row.macs for row in dense if row.sign_trained]
    linear = [row.macs for row in dense if not row.sign_trained]
    once = 3 * sum(convs) - convs[0] + 2 * sum(linear)
    assert counted.macs['pruning'] == 2 * 16 * once
    assert counted.bit_operations['pruning'] == 64 * 64 * counted.macs['pruning']
    epoch = step_work(dense, IMAGES).macs['forward']
    assert epoch < counted.macs['forward'] < 3 * epoch


@pytest.mark.parametrize('converter', [pytest.param('PSG', marks=pytest.mark.slow), 'LatentSigns'])
def test_a_run_resumed_within_an_epoch_counts_the_same(tmp_path, converter):
    def config(folder, **changes):
        hooks = dict(NO_FILES if 'resume' in changes else EACH_STEP, prune=dict(epoch=1))
        if converter == 'LatentSigns':
            changes |= dict(
                model=dict(converter=dict(_delete_=True, type='LatentSigns', mode='pruning')),
                optim_wrapper=dict(
                    optimizers=dict(signs=dict(_delete_=True, type='SGD', owns=['Conv2d.latent'], lr=1000.0))
                ),
            )
            hooks |= dict(ar_decay=None, flips=None)
        return small_config(folder, digits=True, default_hooks=hooks, **changes)

    whole = trained(config(tmp_path / 'whole'))
    # four to an epoch: within each, and where the used weights change with it, at the end of each
    for step in (2, 6) if converter == 'PSG' else (2, 4, 6, 8):
        folder = tmp_path / str(step)
        folder.mkdir()
        shutil.copy(tmp_path / 'whole' / f'iter_{step}.pth', folder)
        resumed = trained(config(folder, resume=True))
        assert work_of(resumed) == work_of(whole), step
    macs = whole.message_hub.get_scalar('cost/macs').data[0]
    assert macs[1] == sum(work_of(whole).macs.values())
    lines = (Path(whole.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    shown = [json.loads(line) for line in lines if 'cost/bit_operations' in line]
    assert [line['step'] for line in shown] == [1, 2]
    assert shown[1]['cost/bit_operations'] == sum(work_of(whole).bit_operations.values())


def test_the_used_weights_are_those_of_the_start_of_the_epoch(tiny_config):
    seen = []

    class Watch(CostHook):
        def before_train_epoch(self, runner):
            super().before_train_epoch(runner)
            layers = runner.network.modules()
            seen.append([int((layer.used_weight() != 0).sum()) for layer in layers if hasattr(layer, 'used_weight')])
            assert [row.kept for row in self._layers if row.kind != 'Linear'] == seen[-1]
            assert [row.learning for row in self._layers] == [row.total for row in self._layers]

    cfg = tiny_config(
        model=dict(converter=dict(_delete_=True, type='LatentSigns', mode='ternary')),
        optim_wrapper=dict(optimizers=dict(signs=dict(_delete_=True, type='SGD', owns=['Conv2d.latent'], lr=1000.0))),
        default_hooks=dict(prune=None, ar_decay=None, flips=None, costs=None),
    )
    trained(cfg, Watch())
    assert seen[0] != seen[1]


@MODELS.register_module()
class DecidesByData(torch.nn.Module):
    """Its forward pass reads a number, which torch's meta device has none of."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, bias=False)
        self.linear = torch.nn.Linear(4, 10)

    def forward(self, images):
        out = self.conv(images).mean((2, 3))
        return self.linear(out if out.sum().item() > 0 else -out)


def test_a_network_that_cannot_be_followed_is_trained_without_costs(tiny_config, monkeypatch):
    monkeypatch.setattr('pab.report.run.write_report', write_record)  # no pictures
    cfg = tiny_config(model=dict(network=dict(_delete_=True, type='DecidesByData')), report=True)
    runner = trained(cfg)
    assert runner.epoch == 2
    assert work_of(runner) is None
    assert 'cost/macs' not in runner.message_hub.log_scalars
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert log.count('The costs of this run are not counted') == 1
    numbers = json.loads((Path(runner.work_dir) / 'report.json').read_text())['numbers']
    assert numbers['macs'] is numbers['bit_operations'] is None
    assert 'bit-operations' not in log


def test_a_checkpoint_that_does_not_know_its_costs(tiny_config):
    trained(tiny_config(train_cfg=dict(max_epochs=1), default_hooks=dict(costs=None)))
    longer = dict(resume_check=dict(allow_changes=True))
    runner = trained(tiny_config(resume=True, default_hooks=longer))
    assert work_of(runner) is None
    log = max(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert 'not counted: the checkpoint does not say what the run has cost before' in log


def test_the_hook_may_be_dropped_and_taken_up_again(tiny_config):
    """It only looks on, so a resume with and without it is no change of the settings."""
    trained(tiny_config(train_cfg=dict(max_epochs=2), default_hooks=dict(EACH_STEP)))
    trained(tiny_config(resume=True, default_hooks=dict(EACH_STEP, costs=None)))


def test_work_adds_up_exactly():
    work, big = Work(), 2**70 + 1
    work.add('forward', big)
    assert work.plus(work).macs == {'forward': 2 * big}
