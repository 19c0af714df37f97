"""The model that mmengine trains: a network, its preprocessing and the cross-entropy."""

from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_ints, known_choice
from ..registry import CONVERTERS, MODELS
from .initialization import check_initialization, initialize_


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """An image classification network trained by the cross-entropy of its logits.

    The network stays an ordinary one, at ``.network``, and gets the same initial weights as without this class.

    Args:
        network: a module, or the config of one in MODELS; images (N, C, H, W) -> logits (N, num_classes).
        converter: config of a converter in CONVERTERS, or a list of them, applied to the network in their order.
        init: ``dict(scheme=..., seed=..., fan_share=...)`` for :func:`pab.models.initialize_`, which ``init_weights``
            calls; the seed None takes torch's seed at that moment. ``init=None`` keeps what the network's constructor
            (and its own ``init_weights``, if it has one) gave it.
        channels_last: keep weights and images in this memory format, faster for convolutions, the same up to rounding.
        data_preprocessor: module, or config in MODELS, that turns a batch into keyword arguments of ``forward``; None
            moves it to the device and nothing else.
        input_shape: (C, H, W) of one image; pruners that need no data read it here.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        compile: run the network by ``torch.compile``; the first steps wait for it, up to minutes. Names and state dict
            stay, and pruners score the network without.

    Settings outside these rules raise a ValueError.
    """

    def __init__(
        self,
        network: dict | nn.Module,
        converter: dict | list[dict] | None = None,
        init: dict | None = dict(scheme='kaiming_normal', seed=None),  # noqa: B006 (only read)
        channels_last: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        input_shape: tuple[int, int, int] | None = None,
        label_smoothing: float = 0.0,
        compile: bool = False,
    ):
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor)
        self.init = None if init is None else {'scheme': 'kaiming_normal', 'seed': None, 'fan_share': 1.0, **init}
        if init is not None:
            for key in self.init:
                known_choice('ImageClassifier', 'key of init', key, ('scheme', 'seed', 'fan_share'))
            check_initialization(**{**self.init, 'seed': 0 if self.init['seed'] is None else self.init['seed']})
        is_list = isinstance(input_shape, Sequence) and not isinstance(input_shape, str)
        if input_shape is not None and not (is_list and len(input_shape) == 3):
            raise ValueError(f'ImageClassifier: input_shape must be (channels, height, width), got {input_shape!r}')
        for size in input_shape or ():
            check_ints('ImageClassifier', **{'each entry of input_shape': size})
        self.input_shape = None if input_shape is None else tuple(input_shape)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'ImageClassifier: label_smoothing must lie in [0, 1), got {label_smoothing!r}')
        if not isinstance(compile, bool):
            raise TypeError(f'ImageClassifier: compile must be True or False, got {compile!r}')
        self.label_smoothing = label_smoothing
        self.network = MODELS.build(network) if isinstance(network, dict) else network
        for config in [converter] if isinstance(converter, dict) else converter or []:
            CONVERTERS.build(config)(self.network)
        self.channels_last, self._labels_checked = channels_last, False
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

    def init_weights(self) -> None:
        """Initialise the network; only the first call does anything, as mmengine's runner may call it again."""
        if self.is_init:
            return
        if self.init is not None:
            scheme, seed = self.init['scheme'], self.init['seed']
            seed = torch.initial_seed() if seed is None else seed
            initialize_(self.network, scheme, seed, self.init['fan_share'])
            print_log(f'Initial weights: scheme {scheme!r}, seed {seed}', logger='current')
        elif hasattr(self.network, 'init_weights'):
            self.network.init_weights()
        self.is_init = True

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Tensor | dict | list[dict]:
        """Run the network on images (N, C, H, W), float.

        Args:
            labels: (N,) integers in [0, num_classes), or (N, num_classes) class probabilities; needed by mode 'loss'.
            mode: 'tensor': logits (N, num_classes); 'loss': ``dict(loss=scalar)``, the mean over the batch;
                'predict': ``[dict(logits=..., labels=...)]``, one entry for the whole batch.

        Raises:
            TypeError, ValueError: images that are not floating point, an unknown mode, missing labels, or (in the first
                batch only, as looking waits for the device) labels outside [0, num_classes).
        """
        known_choice('ImageClassifier', 'mode', mode, ('tensor', 'loss', 'predict'))
        if not images.is_floating_point():
            raise TypeError(
                f'ImageClassifier: images must be floating point, got {images.dtype}; '
                "data_preprocessor=dict(type='ImagePreprocessor', ...) converts and normalises them"
            )
        if mode == 'loss' and labels is None:
            raise ValueError("ImageClassifier: mode='loss' needs labels, got None; batches are dict(images=, labels=)")
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.network(images)
        if mode == 'tensor':
            return logits
        if mode == 'predict':
            return [{'logits': logits, 'labels': labels}]
        if not self._labels_checked and not labels.is_floating_point():
            self._check_labels(labels, logits.shape[1])
        return {'loss': F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def _check_labels(self, labels: Tensor, num_classes: int) -> None:
        # On a GPU a label out of range would surface later, as an assertion of some other kernel.
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f'ImageClassifier: labels must lie in [0, {num_classes}), the number of logits, got {low} to {high}; '
                'set num_classes of the network to that of the dataset'
            )
        self._labels_checked = True


def network_of(model: nn.Module) -> nn.Module:
    """The network of a model: without the wrapper that makes it distributed, and without an ImageClassifier."""
    model = model.module if is_model_wrapper(model) else model
    return model.network if isinstance(model, ImageClassifier) else model
