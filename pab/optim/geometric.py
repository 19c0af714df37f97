"""A schedule by one factor, which the length of the run decides."""

from typing import Any

from mmengine.optim import ExponentialParamScheduler

from ..registry import PARAM_SCHEDULERS

FOREVER = int(1e9)  # mmengine's end of a schedule that has none


@PARAM_SCHEDULERS.register_module()
class GeometricParamScheduler(ExponentialParamScheduler):
    r"""Multiply a setting by the same factor after each epoch, so that the last one has ``end_factor`` of the start.

    .. math:: v_t = v_0 \cdot \text{end\_factor}^{\,t / (T - 1)}, \quad T = \text{end} - \text{begin}, \; 0 \le t < T

    In a run, ``end`` is the run's length by default. With ``convert_to_iter_based`` the setting moves at each step.

    Args:
        optimizer: has the setting in its groups.
        param_name: of the setting.
        end_factor: > 0.
        begin: the first epoch, or step, from 0.
        end: the epoch, or step, behind the last.
        last_step, by_epoch, verbose: as in mmengine.

    Raises:
        ValueError: ``end_factor`` is out of range, or there is no end.
    """

    def __init__(
        self,
        optimizer: Any,
        param_name: str,
        end_factor: float,
        begin: int = 0,
        end: int = FOREVER,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not end_factor > 0:
            raise ValueError(f'GeometricParamScheduler: end_factor must be > 0, got {end_factor!r}; 0.01 ends at 1 %')
        if end >= FOREVER:
            raise ValueError('GeometricParamScheduler: end must be given outside of a run, which has a length')
        gamma = end_factor ** (1 / max(1, end - begin - 1))
        super().__init__(optimizer, param_name, gamma, begin, end, last_step, by_epoch, verbose)
