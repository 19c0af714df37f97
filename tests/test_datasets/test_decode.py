import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pab.datasets import UnreadableImageError, decode_rgb

RAMP = np.arange(32 * 48, dtype=np.int64).reshape(32, 48)
COLOUR = np.stack([RAMP % 256, RAMP // 6, 255 - RAMP % 256], axis=2).astype(np.uint8)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def expect(data, pixels):
    decoded = decode_rgb(data)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, torch.from_numpy(np.array(pixels)).permute(2, 0, 1))


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_jpegs_equal_pillow(mode):
    for progressive in (False, True):
        data = encode(Image.fromarray(COLOUR).convert(mode), 'JPEG', quality=90, progressive=progressive)
        expect(data, pillow(data))


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    data = encode(Image.fromarray(COLOUR), 'JPEG', exif=exif)
    expect(data, pillow(data))


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'WEBP'])
def test_other_kinds_whatever_their_name(kind):
    data = encode(Image.fromarray(COLOUR), kind, **({'lossless': True} if kind == 'WEBP' else {}))
    expect(data, COLOUR)


def test_alpha_is_dropped():
    alpha = np.concatenate([COLOUR, np.full((32, 48, 1), 7, dtype=np.uint8)], axis=2)
    expect(encode(Image.fromarray(alpha), 'PNG'), COLOUR)


@pytest.mark.filterwarnings('error')
def test_palette_with_transparency():
    image = Image.fromarray(COLOUR).quantize(16)
    pixels = np.asarray(image.convert('RGB'))
    expect(encode(image, 'PNG', transparency=bytes(range(16))), pixels)


def test_sixteen_bits_keep_the_upper_eight():
    deep = (RAMP * 40).astype(np.uint16)
    upper = (deep >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    for kind in ('PNG', 'TIFF'):
        expect(encode(Image.fromarray(deep), kind), upper)


@pytest.mark.parametrize('kind', ['GIF', 'WEBP', 'PNG'])
def test_of_an_animation_the_first_frame_is_used(kind):
    frames = [Image.new('RGB', (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {'lossless': True} if kind == 'WEBP' else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    expect(data, np.asarray(frames[0]))


def test_a_single_pixel():
    assert decode_rgb(encode(Image.new('RGB', (1, 1)), 'JPEG')).shape == (3, 1, 1)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'WEBP'])
@pytest.mark.parametrize('keep', [0, 1, 20, 0.5, 0.9])
def test_truncated_files_are_unreadable(kind, keep):
    noise = np.random.RandomState(0).randint(0, 256, (32, 48, 3)).astype(np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableImageError):
        decode_rgb(data[: keep if isinstance(keep, int) else int(keep * len(data))])


def preview(**options):
    """The bytes of a small JPEG."""
    return encode(Image.fromarray(COLOUR[:8, :8]), 'JPEG', **options)


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 4}])
@pytest.mark.parametrize('exif', [None, b'Exif\0\0' + preview()])
@pytest.mark.parametrize('keep', [0.3, 0.6, 0.9, 0.99, 'all but the end'])
@pytest.mark.parametrize('tail', ['zeroed', 'cut', 'of 255'])
def test_jpegs_without_an_end_are_unreadable(options, exif, keep, tail):
    noise = np.random.RandomState(0).randint(0, 256, (64, 96, 3)).astype(np.uint8)
    data = encode(Image.fromarray(noise), 'JPEG', **options, **({'exif': exif} if exif else {}))
    kept = data[: -2 if isinstance(keep, str) else int(keep * len(data))]
    ending = {'zeroed': b'\0', 'cut': b'', 'of 255': b'\xff'}[tail] * (len(data) - len(kept))
    with pytest.raises(UnreadableImageError):
        decode_rgb(kept + ending)


@pytest.mark.parametrize('exif', [None, b'Exif\0\0' + preview()])
@pytest.mark.parametrize('keep', [0.3, 0.6, 0.9, 0.99, 1])
def test_of_several_jpegs_in_a_file_the_first_must_have_its_end(exif, keep):
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 96, 3)).astype(np.uint8))
    data = encode(noise, 'MPO', save_all=True, append_images=[noise], **({'exif': exif} if exif else {}))
    expect(data, pillow(data))
    first = data.find(b'\xff\xd9\xff\xd8') + 2
    end = data[: int(keep * first)].ljust(len(data), b'\0')
    if keep == 1:
        expect(end, pillow(data))
    else:
        with pytest.raises(UnreadableImageError, match='no end marker'):
            decode_rgb(end)


@pytest.mark.parametrize('ending', [bytes(500), b'\xff\xda' + bytes(9), preview(), preview()[:-2]])
def test_what_follows_the_end_of_a_jpeg_is_ignored(ending):
    data = encode(Image.fromarray(COLOUR), 'JPEG')
    expect(data + ending, pillow(data))


@pytest.mark.filterwarnings('ignore:Corrupt')
def test_damage_before_the_end_of_a_jpeg_is_read():
    data = bytearray(encode(Image.fromarray(COLOUR), 'JPEG'))
    data[-200:-2] = bytes(198)
    expect(bytes(data), pillow(bytes(data)))


@pytest.mark.parametrize('data', [b'<html>not found</html>', bytes(1000), b'\xff\xd8\xff' + bytes(100)])
def test_other_bytes_are_unreadable(data):
    with pytest.raises(UnreadableImageError, match='no image of a kind that Pillow knows'):
        decode_rgb(data)


def png_of_size(width, height):
    """A PNG that says it is so large; only its header is ever read."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header + struct.pack('>II', zlib.crc32(header), 1) + b'IDAT'


def test_strips_bombs_and_floats_are_unreadable():
    for data, text in (
        (encode(Image.new('RGB', (1, 101)), 'PNG'), 'its sides are 1 x 101, a ratio above 100'),
        (png_of_size(20000, 20000), 'DecompressionBombError'),
        (encode(Image.fromarray(RAMP.astype(np.float32)), 'TIFF'), 'floating pixels have no known range'),
    ):
        with pytest.raises(UnreadableImageError, match=text):
            decode_rgb(data)
