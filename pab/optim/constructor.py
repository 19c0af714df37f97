"""From the config's ``optim_wrapper`` to optimizers that own the model's parameters."""

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from ..contracts import loss_scale_conflicts
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from .ownership import assign_owners


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OwnershipConstructor:
    """Build the optimizers of a config, each with the parameters its rule gives it.

    Args:
        optim_wrapper_cfg: ``optimizers``, a dict from names to optimizer configs, each with the key ``owns`` (see
            :func:`~pab.optim.ownership.assign_owners`); every other key goes to the wrapper (``type``, by default
            :class:`~pab.optim.wrapper.SharedBackward`).
        paramwise_cfg: must be None.

    Raises:
        ValueError: ``paramwise_cfg`` given, no optimizers, or an optimizer without ``owns``.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='OwnershipConstructor',
        ...     optimizers=dict(
        ...         bop=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=1e-3),
        ...         sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9)))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg is not None:
            raise ValueError(
                "OwnershipConstructor: paramwise_cfg is not read; give parameters an optimizer of their own by 'owns'"
            )
        self.wrapper_cfg = {'type': 'SharedBackward', **optim_wrapper_cfg}
        self.optimizer_cfgs = self.wrapper_cfg.pop('optimizers', None)
        if not self.optimizer_cfgs:
            raise ValueError(
                'OwnershipConstructor: optim_wrapper.optimizers must name at least one optimizer, such as '
                f"dict(sgd=dict(type='SGD', owns='rest', lr=0.1)), got {self.optimizer_cfgs!r}"
            )
        for name, cfg in self.optimizer_cfgs.items():
            if 'owns' not in cfg:
                raise ValueError(
                    f"OwnershipConstructor: optimizer {name!r} needs the key 'owns': 'rest' or a list such as "
                    f"['Conv2d.weight'], got the keys {sorted(cfg)}"
                )

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        if is_model_wrapper(model):
            model = model.module
        if self.wrapper_cfg.get('precision') == 'float16':
            for name, reason in loss_scale_conflicts(model):
                raise ValueError(
                    f'OwnershipConstructor: precision float16 scales the loss, and the gradient of {name} does not '
                    f"scale with it: {reason}; use precision='bfloat16', or change that setting of the layer"
                )
        owned = assign_owners(model, {name: cfg['owns'] for name, cfg in self.optimizer_cfgs.items()})
        optimizers = {}
        for name, cfg in self.optimizer_cfgs.items():
            settings = {key: value for key, value in cfg.items() if key != 'owns'}
            optimizers[name] = OPTIMIZERS.build(dict(settings, params=list(owned[name].values())))
        return OPTIM_WRAPPERS.build(dict(self.wrapper_cfg, **optimizers))
