"""torchvision's transforms by name, of images and of batches."""

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from pab.registry import TRANSFORMS
from pab.transforms import build_transforms


def test_names_lists_and_words_become_what_torchvision_takes():
    built = build_transforms(
        'owner',
        [
            dict(type='Resize', size=[8, 6], interpolation='bicubic'),
            dict(type='RandomApply', transforms=[dict(type='ColorJitter', brightness=0.5)], p=0.0),
            dict(type='ToDtype', dtype='float32', scale=True),
            dict(type='AutoAugment', policy='cifar10'),
        ],
    )
    resize, apply, convert, policy = built.transforms
    assert resize.interpolation is InterpolationMode.BICUBIC
    assert isinstance(apply.transforms[0], v2.ColorJitter)
    assert convert.dtype is torch.float32
    assert policy.policy is v2.AutoAugmentPolicy.CIFAR10
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    want = v2.functional.resize(image, [8, 6], InterpolationMode.BICUBIC).float() / 255
    torch.testing.assert_close(v2.Compose(built.transforms[:3])(image), want)


def test_every_transform_of_torchvision_is_known():
    classes = {name for name, cls in vars(v2).items() if isinstance(cls, type) and issubclass(cls, v2.Transform)}
    assert classes - {'Transform'} <= set(TRANSFORMS.module_dict)


def test_of_batches():
    built = build_transforms('owner', [dict(type='MixUp', alpha=0.3)], num_classes=4)
    images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 3, 0])
    torch.manual_seed(3)
    share = torch.distributions.Beta(torch.tensor([0.3]), torch.tensor([0.3])).sample().item()
    torch.manual_seed(3)
    mixed, probabilities = built(images, labels)
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
    one_hot = torch.eye(4)[labels]
    torch.testing.assert_close(probabilities, share * one_hot + (1 - share) * one_hot.roll(1, 0))


@pytest.mark.parametrize(
    ('configs', 'error', 'message'),
    [
        (dict(type='Resize', size=8), ValueError, r'who: transforms must be a list of dicts such as'),
        ([], ValueError, r'must be a list of dicts such as .*, got \[\]'),
        (['Resize'], ValueError, 'must be a list of dicts'),
        ([dict(size=8)], ValueError, 'must be a list of dicts'),
        ([dict(type='RandomResizedCorp', size=8)], KeyError, 'did you mean RandomResizedCrop'),
        ([dict(type='Resize', sice=8)], ValueError, r"who: transform Resize refuses .*'sice'"),
        ([dict(type='Resize', size=8, interpolation='cubic')], ValueError, "who: transform Resize refuses .*'cubic'"),
        ([dict(type='ToDtype', dtype='float31')], ValueError, "who: transform ToDtype refuses .*'float31'"),
        ([dict(type='AutoAugment', policy='cifar')], ValueError, "who: transform AutoAugment refuses .*'cifar'"),
        ([dict(type='CutMix', alpha=-1, num_classes=2)], ValueError, r'who: transform CutMix refuses .+\Z'),
        ([dict(type='CutMix')], ValueError, 'who: CutMix mixes the images of a batch and needs num_classes'),
    ],
)
def test_what_is_no_list_of_transforms(configs, error, message):
    with pytest.raises(error, match=message):
        build_transforms('who', configs)
