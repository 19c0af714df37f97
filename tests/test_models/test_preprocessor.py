import copy
import re

import pytest
import torch

from pab.models.preprocessor import ImagePreprocessor, crop_and_flip

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)


def numbered(n=4, channels=3, height=6, width=5):
    """Every pixel different within an image, none 0."""
    pixels = torch.arange(n * channels * height * width, dtype=torch.int64).reshape(n, channels, height, width)
    return (pixels % 254 + 1).to(torch.uint8)


def batch(images):
    return {'images': images, 'labels': torch.arange(len(images))}


def test_normalises_by_hand():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)  # 0, 0.2, 1 of full range
    out = ImagePreprocessor(MEAN, STD)(batch(images))
    assert out['images'].dtype == torch.float32
    torch.testing.assert_close(out['images'].flatten(), torch.tensor([-1.0, -0.2, 1.0]))
    assert out['labels'].tolist() == [0]


def test_floating_and_uint8_images_agree():
    images = numbered()
    preprocessor = ImagePreprocessor(MEAN, STD)
    whole = preprocessor(batch(images))['images']
    floating = preprocessor(batch(images / 255))['images']
    torch.testing.assert_close(whole, floating)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor(MEAN).reshape(1, 3, 1, 1), torch.tensor(STD).reshape(1, 3, 1, 1)
    torch.testing.assert_close(whole, (images / 255 - mean) / std)


def test_augments_in_training_only():
    preprocessor = ImagePreprocessor(MEAN, STD, crop_padding=2, flip=True)
    images = numbered(32)
    plain = preprocessor(batch(images), training=False)['images']
    assert torch.equal(plain, preprocessor(batch(images), training=False)['images'])
    assert not torch.equal(plain, preprocessor(batch(images), training=True)['images'])


def test_batches_are_mixed_in_training_only():
    mixing = [dict(type='CutMix', alpha=1.0)]
    preprocessor = ImagePreprocessor(MEAN, STD, batch_transforms=mixing, num_classes=9)
    plain = ImagePreprocessor(MEAN, STD)(batch(numbered()))
    assert all(torch.equal(value, plain[key]) for key, value in preprocessor(batch(numbered())).items())
    torch.manual_seed(4)
    mixed = preprocessor(batch(numbered()), training=True)
    own = (mixed['images'] == plain['images']).all(1).float().mean((1, 2))  # share of each image that is its own
    assert mixed['labels'].shape == (4, 9)
    torch.testing.assert_close(mixed['labels'].diagonal(), own)
    assert 0 < own[0] < 1
    torch.manual_seed(4)
    assert torch.equal(preprocessor(batch(numbered()), training=True)['images'], mixed['images'])


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('channels', [1, 3])
def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror(channels, layout, dtype):
    n, padding = 200, 2
    images = numbered(n, channels).to(dtype).contiguous(memory_format=layout)
    value = torch.arange(channels).to(dtype)
    crops = crop_and_flip(images, padding, value, flip=True)
    height, width = images.shape[2:]
    seen = set()
    for image, crop in zip(images, crops, strict=True):
        padded = value[:, None, None].repeat(1, height + 2 * padding, width + 2 * padding)
        padded[:, padding:-padding, padding:-padding] = image
        # the mirror of a window of an image is a window of the mirrored image
        places = [
            (top, left, mirrored)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for mirrored, source in ((False, padded), (True, padded.flip(2)))
            if torch.equal(crop, source[:, top : top + height, left : left + width])
        ]
        assert len(places) == 1
        seen.update(places)
    # 50 equally likely outcomes, 200 draws: on average 1 % of them are missed
    assert len(seen) >= 45


def test_crop_alone_never_mirrors_and_flip_alone_never_moves():
    images = numbered(64)
    zero = torch.zeros(3, dtype=torch.uint8)
    flipped = crop_and_flip(images, 0, zero, flip=True)
    same = (flipped == images).flatten(1).all(1)
    mirror = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirror)
    assert 16 <= int(mirror.sum()) <= 48
    assert torch.equal(crop_and_flip(images, 0, zero, flip=False), images)


@pytest.mark.parametrize('padding_value', ['black', 'mean'])
def test_padding_value(padding_value):
    mean = (51 / 255, 102 / 255, 153 / 255)
    preprocessor = ImagePreprocessor(mean, STD, crop_padding=3, padding_value=padding_value)
    images = torch.full((64, 3, 4, 4), 255, dtype=torch.uint8)
    out = preprocessor(batch(images), training=True)['images']
    for channel in range(3):
        values = out[:, channel].unique()
        padding = 0 if padding_value == 'mean' else -mean[channel] / STD[channel]
        expected = sorted([(1 - mean[channel]) / STD[channel], padding])
        torch.testing.assert_close(values[[0, -1]], torch.tensor(expected), atol=1e-6, rtol=0)
        assert ((out[:, channel] - expected[0]).abs() < 1e-6).any()


def test_random_numbers_follow_the_global_state():
    preprocessor = ImagePreprocessor(MEAN, STD, crop_padding=4, flip=True)
    state = torch.get_rng_state()
    first = preprocessor(batch(numbered(16)), training=True)['images']
    torch.set_rng_state(state)
    again = copy.deepcopy(preprocessor)(batch(numbered(16)), training=True)['images']
    assert torch.equal(first, again)


def test_input_is_left_alone_and_state_dict_empty():
    images, preprocessor = numbered(), ImagePreprocessor(MEAN, STD, crop_padding=1, flip=True)
    for given in (images, images / 255):
        before = given.clone()
        preprocessor(batch(given), training=True)
        assert torch.equal(given, before)
    assert not preprocessor.state_dict()  # nothing that a checkpoint must hold


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        *(
            ({name: value}, rf'mean and std must be lists of a number for each channel, .*{re.escape(repr(value))}')
            for name in ('mean', 'std')
            for value in (0.3, '0.3', None, ['0.3'])
        ),
        ({'mean': (0.5,), 'std': (0.5, 0.5)}, r'lists of a number for each channel, .* got \(0.5,\) and \(0.5, 0.5\)'),
        ({'mean': (), 'std': ()}, r'lists of a number for each channel, .* got \(\) and \(\)'),
        ({'mean': (123.7,), 'std': (58.4,)}, r'mean in \[0, 1\].*123.7'),
        ({'mean': (0.5,), 'std': (0.0,)}, r'std > 0; got \(0.5,\) and \(0.0,\)'),
        ({'crop_padding': -1}, 'crop_padding must be an int >= 0, got -1'),
        ({'crop_padding': 1.5}, 'crop_padding must be an int >= 0, got 1.5'),
        ({'batch_transforms': [dict(type='MixUp')]}, 'MixUp mixes the images of a batch and needs num_classes'),
        ({'num_classes': 0}, 'num_classes must be an int >= 1, got 0'),
        ({'padding_value': 'grey'}, "unknown padding_value 'grey'; known: black, mean"),
    ],
)
def test_bad_settings(options, text):
    with pytest.raises(ValueError, match=text):
        ImagePreprocessor(**{'mean': MEAN, 'std': STD, **options})


@pytest.mark.parametrize(
    ('images', 'error', 'text'),
    [
        (torch.zeros(2, 1, 4, 4), ValueError, r'images must be \(N, 3, H, W\), got \(2, 1, 4, 4\); set mean and std'),
        (
            [torch.zeros(3, 4, 4)] * 2,
            TypeError,
            r"got a list; set collate_fn=dict\(type='collate_images'\)",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, r'uint8 .* or floating .* got torch\.int64'),
        (torch.tensor([0.0, 255.0]).repeat(2, 3, 4, 1), ValueError, r'lie in \[0, 1\], got \[0, 255\]; pass uint8'),
        (torch.full((2, 3, 4, 4), torch.nan), ValueError, r'floating images must lie in \[0, 1\], got \[nan, nan\]'),
    ],
)
def test_bad_images(images, error, text):
    with pytest.raises(error, match=text):
        ImagePreprocessor(MEAN, STD)(batch(images))


def test_too_few_classes_to_mix():
    mixing = ImagePreprocessor(MEAN, STD, batch_transforms=[dict(type='CutMix')], num_classes=3)
    with pytest.raises(ValueError, match=r"batch_transforms: .* num_classes.*; set num_classes='auto'"):
        mixing({'images': torch.zeros(2, 3, 4, 4), 'labels': torch.tensor([0, 3])}, training=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_does_not_wait_for_the_gpu():
    preprocessor = ImagePreprocessor(MEAN, STD, crop_padding=2, flip=True).to('cuda')
    pinned = {'images': numbered().pin_memory(), 'labels': torch.arange(4).pin_memory()}
    preprocessor(pinned, training=True)  # the first call fills the tables
    torch.cuda.set_sync_debug_mode('error')
    try:
        out = preprocessor(pinned, training=True)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert out['images'].is_cuda
