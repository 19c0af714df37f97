"""The loop of a run: what it is not, and samplers that draw from torch's generators, resumed in mid-epoch."""

import pytest
import torch
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

from pab.registry import DATASETS
from pab.run import PabRunner
from tests.small_run import Stripes, run_in_child, small_config, train, train_and_kill

WEIGHTS = [1, 2, 3, 4] * 19


@DATA_SAMPLERS.register_module()
class Weighted(WeightedRandomSampler):
    """Draws all numbers of an epoch at its start, from torch's global generator."""

    def __init__(self, dataset, seed=None):
        super().__init__(WEIGHTS, len(dataset))


@DATA_SAMPLERS.register_module()
class WithAGenerator(RandomSampler):
    """Draws from a generator of its own, 32 samples at a time."""

    def __init__(self, dataset, seed=None):
        super().__init__(dataset, replacement=True, generator=torch.Generator().manual_seed(3))


@DATA_SAMPLERS.register_module()
class Lazy(Sampler):
    """Draws each sample when it is asked for."""

    def __init__(self, dataset, seed=None):
        self.number = len(dataset)

    def __iter__(self):
        for _ in range(self.number):
            yield int(torch.randint(self.number, ()))

    def __len__(self):
        return self.number


@DATASETS.register_module()
class NoisyStripes(Stripes):
    """Each image is drawn with noise of torch's global generator, in whatever process reads it."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, 'images': item['images'] + torch.randint(0, 9, (1, 6, 6), dtype=torch.uint8)}

    __getitems__ = None


@LOOPS.register_module()
class OneMore(EpochBasedTrainLoop):
    """A loop of somebody's own that knows nothing of resuming."""


def trained(cfg, kill_after=None):
    """Of this module, so that a child process has its classes."""
    return train_and_kill(cfg, kill_after, 'after') if kill_after else train(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('sampler', ['Weighted', 'WithAGenerator', 'Lazy'])
def test_a_sampler_that_draws_is_resumed_in_mid_epoch(tmp_path, sampler, workers):
    """Killed after 15 and 18 of 20 steps, in the second epoch, and written every 2 steps and at the end of epochs."""
    options = dict(
        train_dataloader__sampler=dict(_delete_=True, type=sampler),
        train_dataloader__num_workers=workers,
        train_dataloader__persistent_workers=False,
        train_dataloader__dataset__type='NoisyStripes',
        train_cfg__max_epochs=2,
        default_hooks__checkpoint__by_epoch=False,
        default_hooks__checkpoint__interval=2,
    )
    status, whole = run_in_child(trained, small_config(tmp_path / 'whole', **options))
    assert status == 0, whole
    cfg = small_config(tmp_path / 'run', resume=True, **options)
    for step in (15, 18):
        assert run_in_child(trained, cfg, step)[0] == -9
    assert run_in_child(trained, cfg) == (0, whole)


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        (dict(type='IterBasedTrainLoop', max_iters=5), 'IterBasedTrainLoop'),
        (dict(by_epoch=False, max_iters=5), 'IterBasedTrainLoop'),
        (dict(by_epoch=True, max_epochs=2), 'EpochBasedTrainLoop'),
        (dict(type='OneMore', max_epochs=2), 'OneMore'),
    ],
)
def test_another_loop_is_refused(tmp_path, settings, name):
    cfg = small_config(tmp_path, train_cfg=dict(_delete_=True, **settings))
    with pytest.raises(ValueError, match=rf"^train_cfg: .* which {name} does not; set type='ResumableEpochLoop'"):
        PabRunner.from_cfg(cfg).train()
    assert not list(tmp_path.glob('*.pth'))
