"""From the loader's pixels to what a network sees: augmentation and normalisation of a whole batch on its device."""

from collections.abc import Mapping, Sequence
from math import inf
from numbers import Real

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from ..checks import check_ints, known_choice
from ..registry import MODELS
from ..transforms import build_transforms


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, crop and flip it at random when training, and normalise it.

    ``forward(dict(images=..., labels=...), training)`` returns the same keys. Images come in as (N, C, H, W), either
    uint8 in 0..255 or floating in [0, 1] (checked on the first batch), and leave as float32 (x - mean) / std of the
    same shape, in channels_last. Random numbers come from the default generator of the images' device, so a saved RNG
    state restores them; nothing waits for the device.

    Args:
        mean, std: of each channel, in units of [0, 1]; std > 0.
        crop_padding: pixels added on each side before a random crop of the old size; 0 for no crop.
        padding_value: 'black' pads with pixel 0; 'mean' with ``mean``, which becomes 0 after normalisation (for uint8
            images the nearest of the 256 levels).
        flip: mirror left and right with probability 1/2.
        batch_transforms: torchvision's transforms of a normalised training batch and its labels, one after the other,
            such as ``[dict(type='MixUp', alpha=0.2)]``; labels become probabilities (N, num_classes) by MixUp and
            CutMix. See :mod:`pab.transforms`.
        num_classes: for them, >= 1.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        crop_padding: int = 0,
        padding_value: str = 'black',
        flip: bool = False,
        batch_transforms: Sequence[Mapping] | None = None,
        num_classes: int | None = None,
    ):
        super().__init__(non_blocking=True)  # no waiting for the copy of pinned memory
        means, stds = (v if isinstance(v, Sequence) and not isinstance(v, str) else () for v in (mean, std))
        pairs = zip(means, stds, strict=False)
        numbers = all(isinstance(m, Real) and isinstance(s, Real) and 0 <= m <= 1 and 0 < s < inf for m, s in pairs)
        if not numbers or not 0 < len(means) == len(stds):
            raise ValueError(
                'ImagePreprocessor: mean and std must be lists of a number for each channel, such as (0.5, 0.5, 0.5), '
                f'in units of pixels / 255: mean in [0, 1], std > 0; got {mean!r} and {std!r}'
            )
        check_ints('ImagePreprocessor', 0, crop_padding=crop_padding)
        known_choice('ImagePreprocessor', 'padding_value', padding_value, ('black', 'mean'))
        if num_classes is not None:
            check_ints('ImagePreprocessor', num_classes=num_classes)
        self.batch_transform = None
        if batch_transforms is not None:
            self.batch_transform = build_transforms('ImagePreprocessor', batch_transforms, num_classes)
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32), persistent=False)
        self.crop_padding, self.padding_value, self.flip = crop_padding, padding_value, flip
        self._range_checked = False
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def forward(self, data: dict, training: bool = False) -> dict:
        self._check(data['images'])
        data = self.cast_data(data)
        images = data['images']
        if training and (self.crop_padding or self.flip):
            level = self.mean if self.padding_value == 'mean' else torch.zeros_like(self.mean)
            level = ((level * 255).round() if images.dtype == torch.uint8 else level).to(images.dtype)
            images = crop_and_flip(images, self.crop_padding, level, self.flip)
        images = self._normalise(images)
        if training and self.batch_transform is not None:
            try:
                images, labels = self.batch_transform(images, data['labels'])
            except RuntimeError as error:
                if 'num_classes' not in str(error):
                    raise
                raise ValueError(
                    f"ImagePreprocessor: batch_transforms: {error}; set num_classes='auto', that of the data"
                ) from error
            return {**data, 'images': images, 'labels': labels}
        return {**data, 'images': images}

    def _check(self, images: Tensor) -> None:
        channels = len(self.mean)
        if not isinstance(images, Tensor):  # as mmengine's own collate_fn gives them
            way_out = "set collate_fn=dict(type='collate_images') of the loader"
            raise TypeError(f'ImagePreprocessor: images must be one tensor, got a {type(images).__name__}; {way_out}')
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f'ImagePreprocessor: images must be (N, {channels}, H, W), got {tuple(images.shape)}; set mean and '
                'std to a number for each channel, or give images of that many'
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(
                f'ImagePreprocessor: images must be uint8 (0..255) or floating ([0, 1]), got {images.dtype}'
            )
        # once, and before the transfer: looking at numbers on a GPU would wait for it
        if images.is_floating_point() and not self._range_checked:
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f'ImagePreprocessor: floating images must lie in [0, 1], got [{low:g}, {high:g}]; '
                    'pass uint8 for 0..255, and leave the normalisation to the preprocessor'
                )
            self._range_checked = True

    def _normalise(self, images: Tensor) -> Tensor:
        key = (images.shape[1:], images.dtype == torch.uint8, images.device)
        if key not in self._tables:
            # factor and offset of every pixel, (1, C, H, W): dense, so that the two passes below vectorise
            unit = 255.0 if images.dtype == torch.uint8 else 1.0
            mean, std = (value.to(images.device).double()[None, :, None, None] for value in (self.mean, self.std))
            self._tables[key] = tuple(
                value.float().expand(1, *images.shape[1:]).contiguous(memory_format=torch.channels_last)
                for value in (1 / (unit * std), mean / std)
            )
        scale, shift = self._tables[key]
        # a fresh tensor, so the passes may run in place
        out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
        return out.copy_(images).mul_(scale).sub_(shift)


def crop_and_flip(images: Tensor, padding: int, padding_value: Tensor, flip: bool) -> Tensor:
    """Pad each image, crop it back to its size at a random place, and with ``flip`` mirror it with probability 1/2.

    All at once and without waiting for the device: rows are copied from a padded batch of all images and mirror images.

    Args:
        images: (N, C, H, W), any layout; channels_last is the fastest, and that of the result.
        padding: pixels on each side; the 2 * padding + 1 places of each direction are equally likely.
        padding_value: (C,), of the images' dtype and device.
    """
    n, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * padding + 1, (2, n), device=device)
    mirrored = torch.randint(0, 2, (n,), device=device) if flip else torch.zeros_like(top)

    rows, row = height + 2 * padding, (width + 2 * padding) * channels
    # (1 or 2, N, rows * row), channels innermost: a row of a crop is then one run of numbers
    padded = padding_value.repeat(rows * row // channels).expand(1 + flip, n, -1).contiguous()
    inner = padded.view(1 + flip, n, rows, row // channels, channels)
    inner = inner[:, :, padding : padding + height, padding : padding + width]
    images = images.contiguous(memory_format=torch.channels_last)
    inner[0] = images.permute(0, 2, 3, 1)
    if flip:
        inner[1] = images.flip(3).permute(0, 2, 3, 1)

    first = (mirrored * n + torch.arange(n, device=device)) * rows + top  # (N,) first padded row of each crop
    starts = (first[:, None] + torch.arange(height, device=device)) * row + (left * channels)[:, None]
    # overlapping windows of one row each: window i begins at number i
    windows = padded.view(-1).as_strided((padded.numel() - width * channels + 1, width * channels), (1, 1))
    return windows.index_select(0, starts.view(-1)).view(n, height, width, channels).permute(0, 3, 1, 2)
