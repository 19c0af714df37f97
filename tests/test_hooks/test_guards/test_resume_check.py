import pytest
import torch

from pab.hooks.guards.resume_check import differences, flatten
from tests.small_run import run_in_child, small_config, train

ALLOW = dict(default_hooks__resume_check__allow_changes=True)


def resume(stopped, folder, **options):
    return run_in_child(train, small_config(folder, resume=True, load_from=str(stopped), **options))


def test_leaves_by_hand():
    settings = dict(model=dict(type='A', sizes=(1, 2)), hooks=[dict(type='B', x=None), dict(type='C')])
    leaves = {'model.type': 'A', 'model.sizes': [1, 2], 'hooks[0].type': 'B', 'hooks[0].x': None, 'hooks[1].type': 'C'}
    free = dict(
        work_dir='a',
        _own=1,
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        val_dataloader=dict(batch_size=3),
        train_dataloader=dict(num_workers=3, dataset=dict(data_root='b')),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=3), costs=dict(type='CostHook')),
        custom_hooks=[dict(type='FlipCountHook'), dict(type='NobodysHook', x=1)],
    )
    assert flatten({**settings, **free}) == {**leaves, 'custom_hooks[0].type': 'NobodysHook', 'custom_hooks[0].x': 1}
    assert differences(leaves, leaves) == []
    (one,) = differences(leaves, {**leaves, 'model.sizes': [1, 3]})
    assert one == ('model.sizes', [1, 2], [1, 3])
    (one,) = differences(leaves, {k: v for k, v in leaves.items() if k != 'model.type'})
    assert repr(one) == "('model.type', 'A', nothing)"


def test_what_matters_is_listed_and_refused(stopped, tmp_path):
    options = {
        'randomness__seed': (1, 'randomness.seed: 0 in the checkpoint, 1 now'),
        'default_hooks__prune__pruner__density': (
            0.3,
            'default_hooks.prune.pruner.density: 0.5 in the checkpoint, 0.3 now',
        ),
        'default_hooks__ar_decay': (None, "default_hooks.ar_decay.type: 'ARDecayHook' in the checkpoint, nothing now"),
        'model__converter__grad_bits': (12, 'model.converter.grad_bits: 16 in the checkpoint, 12 now'),
        'model__network__width': (7, 'model.network.width: nothing in the checkpoint, 7 now'),
        'optim_wrapper__precision': ('bfloat16', "optim_wrapper.precision: nothing in the checkpoint, 'bfloat16' now"),
        'train_cfg__max_epochs': (4, 'train_cfg.max_epochs: 3 in the checkpoint, 4 now'),
        'train_dataloader__batch_size': (16, 'train_dataloader.batch_size: 8 in the checkpoint, 16 now'),
        'sync_bn': ('torch', "sync_bn: nothing in the checkpoint, 'torch' now"),
        'model_wrapper_cfg': (
            dict(broadcast_buffers=True, device_ids=None),  # the last of which says where, not what
            'model_wrapper_cfg.broadcast_buffers: False in the checkpoint, True now',
        ),
        'data_preprocessor__flip': (True, 'data_preprocessor.flip: nothing in the checkpoint, True now'),
        'activation_checkpointing': (
            ['network'],
            "activation_checkpointing: nothing in the checkpoint, ['network'] now",
        ),
    }
    _, error = resume(stopped, tmp_path / 'run', **{name: value for name, (value, _) in options.items()})
    assert isinstance(error, ValueError)
    first, *listed, last = str(error).splitlines()
    assert first == 'resume: the config is not the one the checkpoint was trained with:'
    assert last.endswith('go on with the new ones by --allow-changes')
    assert set(listed) >= {f'  {line}' for _, line in options.values()}
    assert len(listed) == len(options) + 2  # the other two arguments of the hook that is gone
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_what_does_not_matter_may_change(stopped, finished, tmp_path):
    options = dict(
        default_hooks__logger__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=5,
        train_dataloader__num_workers=1,
        train_cfg__val_interval=2,
        log_level='WARNING',
        model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None),
    )
    status, end = resume(stopped, tmp_path / 'run', **options)
    assert (status, end['progress']) == (0, (3, 30))
    assert end['weights'] == finished.end['weights']


def test_allowed_changes_take_effect_and_are_named(stopped, tmp_path):
    options = dict(
        optim_wrapper__optimizers__sgd__weight_decay=0.25,
        optim_wrapper__optimizers__sgd__lr=0.4,
        optim_wrapper__optimizers__signs__adaptivity_rate=0.1,
        optim_wrapper__optimizers__signs__threshold=1e-3,
        train_cfg__max_epochs=4,
    )
    cfg = small_config(tmp_path / 'run', resume=True, load_from=str(stopped), **options, **ALLOW)
    cfg.param_scheduler.sgd[1].gamma = 0.5
    status, end = run_in_child(train, cfg)
    assert (status, end['progress']) == (0, (4, 40))
    (bop,), (sgd,) = (end['optimizers'][name]['param_groups'] for name in ('signs', 'sgd'))
    assert sgd['weight_decay'] == 0.25
    assert sgd['lr'] == pytest.approx(0.4 * 0.5 * 0.5)  # as if the run had had these settings from the start
    assert bop['adaptivity_rate'] == pytest.approx(0.1 * 0.8**4)  # that of a fifth epoch
    assert bop['threshold'] == 1e-3
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Resumed with other settings, as allowed:' in log
    assert 'param_scheduler.sgd[1].gamma: 0.1 in the checkpoint, 0.5 now' in log
    assert 'train_cfg.max_epochs: 3 in the checkpoint, 4 now' in log


def test_a_changed_seed_counts_where_it_is_allowed(stopped, tmp_path):
    status, end = resume(stopped, tmp_path / 'run', randomness__seed=1, train_cfg__max_epochs=2, **ALLOW)
    assert (status, end['pruning']['seed']) == (0, 1)


def test_a_batch_size_that_is_allowed_to_change_keeps_the_epochs(stopped, tmp_path):
    status, end = resume(stopped, tmp_path / 'run', train_dataloader__batch_size=16, **ALLOW)
    assert (status, end['progress']) == (0, (3, 15))
    assert torch.load(tmp_path / 'run' / 'epoch_3.pth')['meta']['epoch_length'] == 5


def test_another_set_of_schedules_goes_on_as_if_it_had_been_there_from_the_start(stopped, tmp_path):
    cfg = small_config(tmp_path / 'run', resume=True, load_from=str(stopped), **ALLOW)
    cfg.param_scheduler.sgd = [dict(type='CosineAnnealingLR', T_max=4)]
    status, end = run_in_child(train, cfg)
    assert status == 0, end
    assert end['scalars']['train/lr'][0][-10:] == pytest.approx([0.05] * 10)  # (1 + cos(2/4 pi)) / 2 of 0.1
