"""The model that mmengine trains: a network, its preprocessing and the cross-entropy."""

from collections.abc import Sequence
from numbers import Real

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from ..checks import check_ints, known_choice
from ..patterns import Patterns, places_of_parameters
from ..registry import CONVERTERS, MODELS
from .initialization import check_initialization, initialize_
from .weights import load_weights_


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
        weights: a file with a state dict of the network, or a name of torchvision's, which ``init_weights`` loads (see
            :func:`pab.models.load_weights_`); a head for another number of classes is drawn by ``init``.
        freeze: patterns (:mod:`pab.patterns`) of the network's parameters that are not trained. Batch norm whose
            parameters are all frozen keeps its statistics too. A pruner may still prune them.
        channels_last: keep weights and images in this memory format, faster for convolutions, the same up to rounding.
        data_preprocessor: module, or config in MODELS, that turns a batch into keyword arguments of ``forward``; None
            moves it to the device and nothing else.
        input_shape: (C, H, W) of one image; pruners that need no data read it here.
        class_weights: a number > 0 for each class, by which its images count in the loss; None counts all alike.
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
        weights: str | None = None,
        freeze: Sequence[str] | None = None,
        channels_last: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        input_shape: tuple[int, int, int] | None = None,
        class_weights: Sequence[float] | None = None,
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
        self.label_smoothing, self.weights = label_smoothing, weights
        if class_weights is not None:
            is_list = isinstance(class_weights, Sequence) and not isinstance(class_weights, str)
            if not is_list or not all(isinstance(w, Real) and 0 < w < float('inf') for w in class_weights):
                rule = "a list of numbers > 0, one for each class; 'balanced' stands for those of the training data"
                raise ValueError(f'ImageClassifier: class_weights must be {rule}, got {class_weights!r}')
            class_weights = torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer('class_weights', class_weights, persistent=False)
        self.network = MODELS.build(network) if isinstance(network, dict) else network
        for config in [converter] if isinstance(converter, dict) else converter or []:
            CONVERTERS.build(config)(self.network)
        self._frozen = frozenset() if freeze is None else _freeze_(self.network, freeze)
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
        if self.weights is not None:
            head = load_weights_(self.network, self.weights)
            anew = f'; of another number of classes, so drawn anew: {", ".join(head)}' if head else ''
            print_log(f'Weights of {self.weights}{anew}', logger='current')
        self.is_init = True

    def train(self, mode: bool = True) -> 'ImageClassifier':
        """Set the mode of all layers; frozen batch norm stays in evaluation mode."""
        super().train(mode)
        for name, layer in self.network.named_modules() if self._frozen else ():
            own = {f'{name}.{parameter}' for parameter, _ in layer.named_parameters(recurse=False)}
            if isinstance(layer, _NormBase) and own and own <= self._frozen:
                layer.eval()
        return self

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
        if not self._labels_checked:
            self._check_labels(labels, logits.shape[1])
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.label_smoothing)
        return {'loss': loss}

    def _check_labels(self, labels: Tensor, num_classes: int) -> None:
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            got = f'{len(self.class_weights)} and {num_classes}'
            raise ValueError(f'ImageClassifier: class_weights need one number for each of the logits, got {got}')
        if labels.is_floating_point():
            if labels.shape[-1] != num_classes:
                raise ValueError(
                    'ImageClassifier: mixed labels need a probability for each of the logits, got '
                    f"{labels.shape[-1]} and {num_classes}; set num_classes='auto' of the data_preprocessor"
                )
            return
        # On a GPU a label out of range would surface later, as an assertion of some other kernel.
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f'ImageClassifier: labels must lie in [0, {num_classes}), the number of logits, got {low} to {high}; '
                'set num_classes of the network to that of the dataset'
            )
        self._labels_checked = True


def _freeze_(network: nn.Module, freeze: Sequence[str]) -> frozenset[str]:
    """Take the gradients of parameters away; return all of their names."""
    patterns, frozen = Patterns('ImageClassifier: freeze', freeze), set()
    for parameter, places in places_of_parameters(network).items():
        if patterns.select_shared(places):
            parameter.requires_grad_(False)
            frozen |= {place.full_name for place in places}
    if patterns.unused:
        raise ValueError(
            f'ImageClassifier: freeze: {sorted(patterns.unused)[0]!r} matches no parameter of the '
            f"{type(network).__name__}; 'name:layer1.*' goes by names, 'Conv2d' by the type of a layer"
        )
    return frozenset(frozen)


def network_of(model: nn.Module) -> nn.Module:
    """The network of a model: without the wrapper that makes it distributed, and without an ImageClassifier."""
    model = model.module if is_model_wrapper(model) else model
    return model.network if isinstance(model, ImageClassifier) else model
