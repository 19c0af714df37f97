"""How samples become a batch."""

from collections.abc import Mapping, Sequence

from mmengine.registry import FUNCTIONS  # the runner looks collate functions up in the root registry
from torch.utils.data import default_collate


@FUNCTIONS.register_module()
def collate_images(batch: Mapping | Sequence[Mapping]) -> Mapping:
    """Return a batch dict: one that a dataset's ``__getitems__`` stacked already as it is, a list of items stacked.

    Items ``dict(images=(C, H, W), labels=int)`` become ``dict(images=(N, C, H, W), labels=(N,) int64)``. In a config:
    ``collate_fn=dict(type='collate_images')``.
    """
    return batch if isinstance(batch, Mapping) else default_collate(batch)
