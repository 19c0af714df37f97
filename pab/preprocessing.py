"""The steps of a config from image files to the images that its network takes."""

import inspect
from collections.abc import Mapping
from typing import Any

from .registry import DATASETS


def preprocessing_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std of pixels in [0, 1], and ``resize`` and ``size`` of the test set's images in pixels, where known.

    The data_preprocessor of the model counts before that of the top level, as in a run.
    """
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor', cfg.get('data_preprocessor')) or {}
    held = {key: list(preprocessor[key]) for key in ('mean', 'std') if key in preprocessor}
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = inspect.signature(DATASETS.get(dataset['type'])).parameters if 'type' in dataset else {}
    return held | {key: dataset.get(key, known[key].default) for key in ('resize', 'size') if key in known}
