"""From the bytes of an image file to RGB pixels, whatever the file turns out to hold."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

JPEG_END = b'\xff\xd9'
MAX_ASPECT = 100  # a resized strip would need hundreds of times the memory of a photograph


class UnreadableImageError(ValueError):
    """The bytes are not an image that can be used; the message says why."""


def decode_rgb(data: bytes) -> Tensor:
    """Decode an image file to (3, H, W) uint8.

    Its content, not its name, says what it is. Grey is repeated in three channels, CMYK and palettes are converted to
    RGB, alpha is dropped, 16-bit grey keeps its upper 8 bits, of an animation the first frame is used, orientation tags
    are ignored.

    Raises:
        UnreadableImageError: truncated, damaged, not an image, a JPEG without an end marker, of floating pixels (no
            known range), of more than about 179 million pixels (Pillow's limit), or with sides in a ratio above 100.
    """
    try:
        file = io.BytesIO(data)
        with Image.open(file) as image:  # reads the header only
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UnreadableImageError(f'its sides are {width} x {height}, a ratio above {MAX_ASPECT}')
            if image.format == 'MPO':  # of phones and cameras: more JPEGs behind the first, which is as any other
                file = io.BytesIO(data)
                image = JpegImageFile(file)
            # Without an end, as where the tail of a file is zeroed, Pillow refuses or fills with grey, by how its
            # buffers fall. The search begins behind the header: a preview in it has an end.
            if image.format == 'JPEG' and data.find(JPEG_END, file.tell()) < 0:
                raise UnreadableImageError('it is truncated: the JPEG data have no end marker')
            return _rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError('it is empty, or no image of a kind that Pillow knows') from error
    except Exception as error:  # decoders of damaged files fail in every way there is
        raise UnreadableImageError(f'{type(error).__name__}: {error}') from error


def to_grey(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (1, H, W) as Pillow's mode L; an image that is grey in three channels keeps its values."""
    weights = torch.tensor([19595, 38470, 7471])[:, None, None]  # ITU-R 601-2 in 65536ths
    return ((image.int() * weights).sum(0, keepdim=True) + 32768 >> 16).to(torch.uint8)


def _rgb(image: Image.Image) -> Tensor:
    if image.mode == 'F':
        raise UnreadableImageError('floating pixels have no known range')
    if image.mode.startswith('I'):  # Pillow would clip 16 bits to 255
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(grey).expand(3, *grey.shape).contiguous()
    if 'transparency' in image.info:
        image = image.convert('RGBA')
    return torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1)
