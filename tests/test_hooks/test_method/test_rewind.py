"""Trainings with pruning and rewinding between them, step by step; resumed; and what is refused."""

import shutil

import pytest
import torch
from mmengine.hooks import Hook

from pab.hooks import RewindHook
from pab.hooks.method.prune_to_file import prune_to_file
from pab.hooks.method.pruning import hash_masks
from pab.pruners import check_masks, get_masks
from pab.registry import RUNNERS
from pab.report.run import write_record
from tests.small_run import final_state, run_ranks, runner_hook, small_config

STEPS = 4  # of an epoch, and of a training
TOTAL, CLASSIFIER = 1210, 80  # weights of the convolutions, and of the rest
EACH_STEP = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None))
NO_FILES = dict(checkpoint=dict(save_best=None, interval=99))


def rewinding(folder, cycles=2, rewind_iter=2, pruner=None, hooks=None, **changes):
    """The tiny network, trained by SGD ``cycles`` + 1 times for one epoch, down to a density of 0.25."""
    changes = dict(dict(train_cfg=dict(max_epochs=cycles + 1)), **changes)
    cfg = small_config(
        folder, digits=True, default_hooks=dict(dict(ar_decay=None, flips=None), **(hooks or {})), **changes
    )
    cfg.model.converter = None
    cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9))
    schedule = dict(type='CosineRestartLR', periods=[STEPS] * (cycles + 1), restart_weights=[1] * (cycles + 1))
    cfg.param_scheduler = dict(sgd=[dict(schedule, eta_min=0, by_epoch=False)])
    pruner = dict(dict(type='Mag', density=0.25), **(pruner or {}))
    cfg.default_hooks.prune = dict(type='RewindHook', pruner=pruner, cycles=cycles, rewind_iter=rewind_iter)
    return cfg


class Watch(Hook):
    """Keeps the model after every step, and what each training begins with."""

    def __init__(self):
        self.after_step, self.starts = {}, []

    def before_train(self, runner):
        self.after_step[runner.iter] = self._model(runner)

    def before_train_epoch(self, runner):
        optimizer = next(runner.optim_wrapper.values()).optimizer
        masks = {name: mask.clone() for name, mask in get_masks(runner.network).items()}
        lr = optimizer.param_groups[0]['lr']
        self.starts.append((self._model(runner), masks, len(optimizer.state), lr))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after_step[runner.iter + 1] = self._model(runner)

    @staticmethod
    def _model(runner):
        return {name: value.clone() for name, value in runner.model.state_dict().items() if '_mask' not in name}


@pytest.mark.parametrize('rewind_iter', [0, 2])
def test_what_stays_goes_back_to_the_weights_of_an_early_step(tmp_path, rewind_iter):
    runner, watch = RUNNERS.build(rewinding(tmp_path, rewind_iter=rewind_iter)), Watch()
    runner.register_hook(watch)
    runner.train()
    early = watch.after_step[rewind_iter]
    alive = torch.ones(TOTAL, dtype=torch.bool)
    for training, (model, masks, states, lr) in enumerate(watch.starts):
        if training:
            kept = {1: 605, 2: 303}[training]  # half, and 1210 - floor(0.75 x 1210)
            last = watch.after_step[training * STEPS]
            left = torch.cat([last[f'network.{name}'].abs().flatten() for name in masks])
            chosen = torch.zeros(TOTAL, dtype=torch.bool)
            chosen[left.masked_fill(~alive, -1).argsort(descending=True, stable=True)[:kept]] = True
            alive = torch.cat([mask.flatten() for mask in masks.values()])
            assert torch.equal(alive, chosen)
            for name, value in model.items():
                mask = masks.get(name.removeprefix('network.'))
                assert torch.equal(value, early[name] if mask is None else early[name] * mask), name
                assert 'mean' in name or 'tracked' in name or not torch.equal(last[name], early[name]), name
        else:
            assert all(mask.all() for mask in masks.values())
        assert states == 0
        assert lr == pytest.approx(0.1)
    check_masks(runner.model)
    costs = runner_hook(runner, 'CostHook').work
    assert costs.macs['optimizer'] == 3 * STEPS * (TOTAL + 605 + 303 + 3 * CLASSIFIER)


@pytest.mark.parametrize('name', ['Rand', 'GraSP'])  # given as little, and as much, as any; FlipFreq needs signs
def test_every_pruner_reaches_the_density(tmp_path, name):
    runner = RUNNERS.build(rewinding(tmp_path, cycles=1, pruner=dict(type=name)))
    runner.train()
    assert sum(int(mask.sum()) for mask in get_masks(runner.network).values()) == 303


def test_a_resumed_run_is_the_same_at_any_step(tmp_path):
    whole = RUNNERS.build(rewinding(tmp_path / 'whole', hooks=EACH_STEP))
    whole.train()
    files = {step: torch.load(tmp_path / 'whole' / f'iter_{step}.pth') for step in (1, 2, 8, 9)}
    # kept from the second step to the last pruning, before the ninth
    assert ['rewind_to' in file for file in files.values()] == [False, True, True, False]
    for step in (1, 2, 6, 8, 10):
        folder = tmp_path / str(step)
        folder.mkdir()
        shutil.copy(tmp_path / 'whole' / f'iter_{step}.pth', folder)
        resumed = RUNNERS.build(rewinding(folder, resume=True, hooks=NO_FILES))
        resumed.train()
        assert final_state(resumed) == final_state(whole), step


def test_averages_start_anew(tmp_path):
    cfg = rewinding(tmp_path, cycles=1)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    runner, watch = RUNNERS.build(cfg), Watch()
    runner.register_hook(watch, 'VERY_LOW')
    average = {}

    class Average(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            copy = runner_hook(runner, 'EMAHook').ema_model.module
            average[runner.iter + 1] = {name: param.clone() for name, param in copy.named_parameters()}

    runner.register_hook(Average(), 'VERY_LOW')
    runner.train()
    for step, same in ((STEPS, False), (STEPS + 1, True), (STEPS + 2, False)):
        equal = [torch.equal(value, watch.after_step[step][name]) for name, value in average[step].items()]
        assert all(equal) if same else not any(equal)


def test_signs_go_back_and_their_flips_count_on(tmp_path, monkeypatch):
    """With a sign optimizer, whose state begins anew with its counts; the report has the flips of each epoch."""
    hook = dict(_delete_=True, type='RewindHook', pruner=dict(type='Mag', density=0.25), cycles=1, rewind_iter=1)
    cfg = small_config(tmp_path, digits=True, report=True, default_hooks=dict(prune=hook))
    monkeypatch.setattr('pab.report.run.write_report', write_record)  # no pictures
    runner = RUNNERS.build(cfg)
    runner.train()
    report = runner_hook(runner, 'ReportHook')
    rates = report.record.layers['flip rate']
    kept = {name.removesuffix('.weight'): int(mask.sum()) for name, mask in get_masks(runner.model.network).items()}
    flips = runner.message_hub.get_scalar('flips/epoch').data[0][1]
    assert sum(rates[layer][2] * count * STEPS for layer, count in kept.items()) == pytest.approx(flips)


def after_rewinding(cfg):
    runner = RUNNERS.build(cfg)
    runner.train()
    costs = runner_hook(runner, 'CostHook').work
    weights = {name: param.detach().tolist() for name, param in runner.model.module.named_parameters()}
    return hash_masks(get_masks(runner.network)), weights, costs.macs


@pytest.mark.slow
def test_two_processes_agree_and_cost_what_one_does(tmp_path):
    hook = dict(_delete_=True, type='RewindHook', pruner=dict(type='Rand', density=0.25), cycles=2, rewind_iter=3)
    options = dict(default_hooks__prune=hook)
    ends = run_ranks(2, after_rewinding, small_config(tmp_path / 'two', train_dataloader__batch_size=4, **options))
    assert [status for status, _ in ends] == [0, 0]
    assert ends[0][1] == ends[1][1]
    alone = RUNNERS.build(small_config(tmp_path / 'one', **options))
    alone.train()
    assert ends[0][1][0] == hash_masks(get_masks(alone.network))
    assert ends[0][1][2] == runner_hook(alone, 'CostHook').work.macs


REFUSED = {
    'epochs': (dict(train_cfg=dict(max_epochs=4)), r'max_epochs must be a multiple of cycles \+ 1, 3, got 4'),
    'steps': (dict(rewind_iter=4), r'rewind_iter must be below the steps of the first training, 4, got 4'),
    'floors': (dict(pruner=dict(min_per_tensor=300)), r'min_per_tensor: 300 weights in each of'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_refused_before_training(tmp_path, case):
    settings, message = REFUSED[case]
    runner = RUNNERS.build(rewinding(tmp_path, **settings))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(cycles=0), 'RewindHook: cycles must be an int >= 1, got 0'),
        (dict(cycles=1, rewind_iter=-1), 'RewindHook: rewind_iter must be an int >= 0, got -1'),
        (dict(cycles=1, data=dict(num=1)), 'RewindHook: data has the keys num_samples and batch_size, got num'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RewindHook(dict(type='Mag', density=0.5), **settings)


def test_the_first_training_is_dense(tmp_path):
    RUNNERS.build(rewinding(tmp_path / 'a', cycles=1)).train()
    record = torch.load(tmp_path / 'a' / 'epoch_2.pth')['pruning']
    assert (record['pruner'], record['shots'], record['shots_done']) == ('Mag', 1, 1)
    runner = RUNNERS.build(rewinding(tmp_path / 'b', cycles=1, load_from=str(tmp_path / 'a' / 'epoch_2.pth')))
    with pytest.raises(ValueError, match='first training is dense, but load_from names a pruned network'):
        runner.train()


def test_a_checkpoint_without_the_early_weights(tmp_path):
    def plain(**changes):
        cfg = rewinding(tmp_path, cycles=1, **changes)
        cfg.default_hooks.prune = dict(type='PruneHook', pruner=dict(type='Mag', density=0.25), epoch=1)
        return cfg

    RUNNERS.build(plain(hooks=EACH_STEP)).train()
    for path in tmp_path.glob('iter_*.pth'):
        if path.name != 'iter_3.pth':
            path.unlink()
    allowed = dict(EACH_STEP, resume_check=dict(allow_changes=True))
    runner = RUNNERS.build(rewinding(tmp_path, cycles=1, resume=True, hooks=allowed))
    with pytest.raises(ValueError, match='the checkpoint is of step 3 and lacks the weights of step 2; resume from'):
        runner.train()


def test_no_pruning_without_its_training(tmp_path):
    runner = RUNNERS.build(rewinding(tmp_path))
    with pytest.raises(ValueError, match='RewindHook prunes what its trainings leave; it cannot prune before one'):
        prune_to_file(runner, tmp_path / 'pruned.pth')
