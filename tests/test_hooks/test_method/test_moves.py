"""Runs whose kept weights change places: resumed, in two processes, packed, reported, counted, and refused."""

import pytest
import torch

from pab import compact
from pab.hooks.method.pruning import hash_masks
from pab.models import initialize_
from pab.pruners import check_masks, get_masks
from pab.registry import RUNNERS
from pab.report.run import draw_run, read_record, write_record
from tests.small_run import final_state, run_ranks, runner_hook, small_config

EACH_STEP = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None))

NO_FILES = dict(checkpoint=dict(save_best=None, interval=99))


def moving(folder, scope='local', **changes):
    """The small run, pruned before it begins, with moves up to its last epoch; two passes make a step."""
    cfg = small_config(folder, **{'optim_wrapper__accumulative_counts': 2, **changes})
    cfg.optim_wrapper.optimizers.signs = dict(
        type='Moves', owns=['Conv2d.weight'], flip_share=0.02, move_share=0.05, adaptivity_rate=0.2, scope=scope
    )
    cfg.param_scheduler.signs = [
        dict(type='PolyParamScheduler', param_name='move_share', end=2, convert_to_iter_based=True)
    ]
    cfg.default_hooks.prune.update(epoch=0, shots=1)
    cfg.default_hooks.ar_decay = None
    return cfg


def trained(cfg):
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def summary(cfg):
    runner = trained(cfg)
    states = [state['moving_average'].tolist() for state in runner.sign_optimizers[0].state.values()]
    weights = {name: param.tolist() for name, param in runner.network.named_parameters()}
    return (
        hash_masks(get_masks(runner.network)),
        weights,
        states,
        runner.message_hub.get_scalar('moves/total').current(),
    )


@pytest.mark.parametrize('scope', ['local', 'global'])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, scope):
    whole = trained(moving(tmp_path / 'whole', scope, default_hooks=EACH_STEP))
    end, masks = final_state(whole), get_masks(whole.network)
    check_masks(whole.network)
    assert hash_masks(masks) != end['pruning']['masks_sha256']  # they are those of the pruning no more
    kept, before = {name: int(mask.sum()) for name, mask in masks.items()}, kept_by_pruning(tmp_path / 'whole')
    assert (kept == before) == (scope == 'local')
    assert sum(kept.values()) == sum(before.values())
    for step in (13, 26)[: 2 if scope == 'local' else 1]:  # between the passes of a step; behind the last move
        file = str(tmp_path / 'whole' / f'iter_{step}.pth')
        again = trained(moving(tmp_path / str(step), scope, resume=True, load_from=file, default_hooks=NO_FILES))
        assert final_state(again) == end, step


def kept_by_pruning(folder):
    state = torch.load(folder / 'iter_1.pth')['state_dict']  # no step is made yet
    return {name.removeprefix('network.')[:-5]: int(v.sum()) for name, v in state.items() if name.endswith('_mask')}


def test_two_processes_agree(tmp_path):
    ends = run_ranks(2, summary, moving(tmp_path, 'global', train_dataloader__batch_size=4))
    assert [status for status, _ in ends] == [0, 0]
    assert ends[0][1] == ends[1][1]
    assert ends[0][1][3] > 40


def test_the_network_is_its_seed_a_mask_and_signs(tmp_path):
    cfg = moving(tmp_path, 'global', model__compile=False)
    network = trained(cfg).network
    file = tmp_path / 'network.pab'
    compact.pack(cfg, torch.load(tmp_path / 'epoch_3.pth'), file)
    loaded = compact.load(file)
    for (name, tensor), other in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert compact.info(file)['signs'] == ['conv1.weight', 'conv2.weight']
    assert compact.info(file)['bytes']['values'] < 4 * 100


def test_report_and_costs_know_of_moves(tmp_path, monkeypatch):
    cfg = moving(tmp_path, report=True, optim_wrapper__accumulative_counts=1)
    monkeypatch.setattr('pab.report.run.write_report', write_record)  # no pictures
    runner = trained(cfg)
    record = read_record(tmp_path)
    rates = record['layers']['move rate']
    kept = {name[:-7]: int(mask.sum()) for name, mask in get_masks(runner.network).items()}
    total = runner.message_hub.get_scalar('moves/total').current()
    assert sum(rate * kept[layer] * 10 for layer, row in rates.items() for rate in row) == pytest.approx(total)
    assert all(row[0] > row[1] > row[2] == 0 for row in rates.values())
    assert 'moves_by_layer' in draw_run(record)
    for key in ('flip rate', 'share of flips of signs'):  # 0 has no place on a logarithmic scale
        steps, values = record['series'][key]
        record['series'][key] = steps, [0.0] * len(values)
    record['layers']['flip rate'] = {layer: [0.0] * len(row) for layer, row in rates.items()}
    pictures = draw_run(record)
    assert not {'flips', 'flips_by_layer'} & set(pictures)
    assert not any('flips' in line.get_label() for line in pictures['rates'].axes[0].lines)
    assert [name for name in record['series'] if 'moves' in name] == ['share of moves of signs']
    work = runner_hook(runner, 'CostHook').work
    # of 76 images in each of 3 epochs; conv1 9 x 6 weights at 36 places, conv2 6 times as many; the last without moves
    dense, share = 76 * 36 * (54 + 324), 76 * 36 * (kept['conv1'] + kept['conv2'])
    assert work.macs['weight gradient'] == 2 * dense + share + 3 * 76 * 24


def test_weights_that_are_drawn_with_a_seed_of_their_own(tmp_path):
    cfg = moving(tmp_path, model__init=dict(scheme='kaiming_uniform', seed=7, fan_share=0.5))
    runner = trained(cfg)
    fresh = initialize_(type(runner.network)(), 'kaiming_uniform', 7, 0.5)
    weight, mask = runner.network.conv2.weight, get_masks(runner.network)['conv2.weight']
    assert torch.equal(weight.abs(), fresh.conv2.weight.abs() * mask)


REWIND = dict(type='RewindHook', pruner=dict(type='Mag', density=0.5), cycles=2)
REFUSED = {
    'no seed': (dict(model__init=None), 'weights grow with the magnitudes that a seed gives, and init=None leaves'),
    'averages': (dict(custom_hooks=[dict(type='EMAHook')]), 'EMAHook needs masks that stay'),
    'narrow': (dict(default_hooks__prune__narrow=True), 'narrow=True needs masks that stay'),
    'of mmengine': (dict(custom_hooks=[dict(type='mmengine.EMAHook')]), 'EMAHook needs masks that stay'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_refused_before_training(tmp_path, case):
    settings, message = REFUSED[case]
    runner = RUNNERS.build(moving(tmp_path, **settings))
    with pytest.raises(ValueError, match=f'Moves: .*{message}'):
        runner.train()
    assert runner.iter == 0


def test_rewinding_and_a_start_from_another_seed_are_refused(tmp_path):
    cfg = moving(tmp_path / 'a')
    cfg.default_hooks.prune = REWIND
    with pytest.raises(ValueError, match='Moves: RewindHook needs masks that stay'):
        trained(cfg)
    trained(moving(tmp_path / 'b', train_cfg__max_epochs=1))
    cfg = moving(tmp_path / 'c', load_from=str(tmp_path / 'b' / 'epoch_1.pth'), model__init=dict(seed=5))
    with pytest.raises(ValueError, match=r'Moves: \d+ weights of conv1.weight do not have the magnitudes'):
        trained(cfg)
