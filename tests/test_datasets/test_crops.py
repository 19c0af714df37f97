import pytest
import torch
from torchvision.transforms import v2

from pab.datasets.crops import centre_crop, random_crop, seeded

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(('height', 'width'), [(40, 60), (60, 40), (3, 90), (1, 1)])
def test_random_crop_equals_torchvisions_transforms(height, width):
    theirs = v2.Compose([v2.RandomResizedCrop(24, SCALE, RATIO, antialias=True), v2.RandomHorizontalFlip()])
    picture = image(height, width)
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(picture)
        torch.manual_seed(seed)
        assert torch.equal(random_crop(picture, 24, SCALE, RATIO), expected)


@pytest.mark.parametrize(('height', 'width'), [(40, 61), (61, 40), (16, 16), (500, 333), (1, 1)])
def test_centre_crop_equals_torchvisions_transforms(height, width):
    theirs = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    picture = image(height, width)
    assert torch.equal(centre_crop(picture, 32, 28), theirs(picture))


def test_seeded_block_repeats_and_leaves_the_state_alone():
    state = torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    with seeded(5):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyError), seeded(5):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(None):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), state)
