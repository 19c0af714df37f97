import copy
import pickle

import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from pab.datasets import BalancedSampler, EpochSampler, InMemoryDataset, SampleIndex
from pab.datasets.sampler import sample_seeds
from pab.registry import DATA_SAMPLERS


class Drawing:
    """A dataset whose items show the index and its seed."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return int(index), index.seed


def pairs(sampler):
    return [(int(index), index.seed) for index in sampler]


def test_index_is_an_int_with_a_seed():
    index = SampleIndex(3, seed=5)
    assert index == 3 and [10, 11, 12, 13][index] == 13
    for copied in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert (copied, copied.seed, type(copied)) == (3, 5, SampleIndex)
    assert torch.as_tensor([index, SampleIndex(1, 0)]).tolist() == [3, 1]


@pytest.mark.parametrize('round_up', [True, False])
@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('rank', [0, 1, 2])
def test_shards_as_mmengine_does(monkeypatch, rank, shuffle, round_up):
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, 3))
    options = {'shuffle': shuffle, 'seed': 4, 'round_up': round_up}
    ours, theirs = EpochSampler(Drawing(), **options), DefaultSampler(Drawing(), **options)
    for epoch in range(2):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs) == len(list(ours))


def test_seeds_depend_on_seed_epoch_and_index_only(monkeypatch):
    def seeds(seed, epoch, rank=0, world_size=1):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world_size))
        sampler = EpochSampler(Drawing(), seed=seed)
        sampler.set_epoch(epoch)
        return dict(pairs(sampler))

    one = seeds(0, 0)
    assert {**seeds(0, 0, 0, 2), **seeds(0, 0, 1, 2)} == one
    everything = [value for seed in (0, 1) for epoch in (0, 1) for value in seeds(seed, epoch).values()]
    assert len(set(everything)) == 40
    assert all(0 <= value < 2**63 for value in everything)


def test_seeds_are_fixed_for_ever():
    # computed by hand from SplitMix64: a change of these numbers changes every augmented sample
    mask = 2**64 - 1

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # the published first output for seed 0
    for seed, epoch, index in [(0, 0, 0), (7, 3, 1281166), (2**40, 99, 5)]:
        assert sample_seeds(seed, epoch, [index]) == [mix(mix(mix(seed) ^ epoch) ^ index) >> 1]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_starts_in_the_middle_once(num_workers):
    sampler = EpochSampler(Drawing(), seed=1)
    workers = dict(num_workers=num_workers, persistent_workers=num_workers > 0)
    loader = DataLoader(Drawing(), 3, sampler=sampler, collate_fn=list, **workers)
    whole = list(loader)
    sampler.skip(6)
    assert len(loader) == 4
    assert list(loader) == whole[2:]
    assert list(loader) == whole
    sampler.set_epoch(1)
    assert list(loader) != whole


def test_datasets_without_randomness_get_plain_ints():
    images, labels = torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64)
    dataset = InMemoryDataset(images, labels, ['a', 'b'])
    sampler = EpochSampler(dataset, seed=3)
    assert {type(index) for index in sampler} == {int}
    assert list(sampler) == list(EpochSampler(Drawing(), seed=3))
    sampler.skip(8)
    assert len(list(sampler)) == 2


def test_skipping_all_and_too_much():
    sampler = EpochSampler(Drawing(), seed=1)
    sampler.skip(10)
    assert list(sampler) == []
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match=f'EpochSampler: an epoch has 10 samples on this rank, so {wrong} cannot'):
            sampler.skip(wrong)


def test_is_registered_and_refuses_an_empty_dataset():
    config = {'type': 'EpochSampler', 'shuffle': False}
    assert list(DATA_SAMPLERS.build(config, default_args={'dataset': Drawing(2), 'seed': 0})) == [0, 1]
    with pytest.raises(ValueError, match='EpochSampler: Drawing has no samples'):
        EpochSampler(Drawing(0))


# unequal classes


class Unequal(Drawing):
    """90 images of class 0, 9 of class 1, 1 of class 2 and 5 of none."""

    def __init__(self):
        super().__init__(105)
        self.labels = torch.tensor([0] * 90 + [1] * 9 + [2] + [-100] * 5)


def test_every_class_is_drawn_as_often():
    dataset = Unequal()
    sampler = BalancedSampler(dataset, seed=1)
    drawn = []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        drawn += [dataset.labels[index].item() for index in sampler]
    assert len(drawn) == 40 * 105
    for label in range(3):  # a third each: 1,400, with a standard deviation of 31
        assert abs(drawn.count(label) - 1400) < 4 * 31
    assert set(drawn) == {0, 1, 2}


def test_an_image_drawn_again_has_other_random_numbers():
    seeds = [seed for index, seed in pairs(BalancedSampler(Unequal(), seed=1)) if index == 99]
    assert len(seeds) > 10
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_balanced_epoch_starts_in_the_middle(num_workers):
    sampler = BalancedSampler(Unequal(), seed=2)
    sampler.set_epoch(3)
    loader = DataLoader(sampler.dataset, 10, sampler=sampler, collate_fn=list, num_workers=num_workers)
    whole = list(loader)
    sampler.skip(40)
    torch.rand(3)
    assert list(loader) == whole[4:]
    other = BalancedSampler(Unequal(), seed=2)
    assert pairs(other) != [pair for batch in whole for pair in batch]
    other.set_epoch(3)
    assert pairs(other) == [pair for batch in whole for pair in batch]


def test_balanced_shards_are_parts_of_one_order(monkeypatch):
    whole = pairs(BalancedSampler(Unequal(), seed=5))
    shards = []
    for rank in range(3):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 3))
        shards.append(pairs(BalancedSampler(Unequal(), seed=5)))
    assert [pair for together in zip(*shards, strict=True) for pair in together] == whole


def test_what_cannot_be_balanced():
    with pytest.raises(ValueError, match=r'BalancedSampler: Drawing has no labels \(N,\) to .* class_weights'):
        BalancedSampler(Drawing())
    with pytest.raises(ValueError, match='BalancedSampler: draws images at random, so shuffle must be True, got False'):
        BalancedSampler(Unequal(), shuffle=False)
