"""The steps of a config from image files to the images that its network takes."""

import inspect
from collections.abc import Mapping
from typing import Any

from .registry import DATASETS


def preprocessing_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std of pixels in [0, 1], and ``resize`` and ``size`` of the test set's images in pixels, where known.

    Where the test set has ``transforms`` of its own, a list of dicts, they stand for the last two; ``grey`` is True
    where images are turned to grey before. The data_preprocessor of the model counts before that of the top level, as
    in a run.
    """
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor', cfg.get('data_preprocessor')) or {}
    held = {key: list(preprocessor[key]) for key in ('mean', 'std') if key in preprocessor}
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = inspect.signature(DATASETS.get(dataset['type'])).parameters if 'type' in dataset else {}
    if 'size' not in known:
        return held
    grey = {'grey': True} if dataset.get('grey') else {}
    if transforms := dataset.get('transforms'):
        return held | grey | {'transforms': [dict(transform) for transform in transforms]}
    size = dataset.get('size', known['size'].default)
    return held | grey | {'resize': dataset.get('resize') or shorter_side(size), 'size': size}


def shorter_side(size: int) -> int:
    """Pixels of the shorter side before a centre crop of ``size``: 256 for 224, and in that proportion."""
    return round(size * 256 / 224)
