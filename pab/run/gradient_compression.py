"""Gradients that travel between processes in half the bytes."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ..registry import HOOKS


@HOOKS.register_module()
class GradientCompressionHook(Hook):
    r"""Average the gradients of all processes in 16 bits, by torch's own communication hooks.

    Each process divides its gradients by the number of processes and rounds them, :math:`g_r \to c(g_r / R)`; the sum
    over processes r is formed in that type and widened again, so every process gets the same numbers. Bop reads only
    an average over some 1/gamma steps, in which the rounding of single steps mostly cancels.

    Args:
        dtype: 'bfloat16' (8 bits of mantissa, the range of float32) or 'float16' (11 bits; what is below 6e-8 in
            magnitude becomes 0, as small PSG gradients do), else ValueError.

    Example:
        ``tools/dist_train.sh CONFIG 8 --cfg-options default_hooks.compression.type=GradientCompressionHook``
    """

    def __init__(self, dtype: str = 'bfloat16') -> None:
        if dtype not in COMPRESSIONS:
            raise ValueError(f'GradientCompressionHook: dtype must be one of {sorted(COMPRESSIONS)}, got {dtype!r}')
        self.dtype = dtype

    def before_train(self, runner: Runner) -> None:
        """Tell the distributed model how to average; TypeError for any but a DistributedDataParallel model."""
        if not runner.distributed:
            runner.logger.warning('GradientCompressionHook: a run of one process sends no gradients')
        elif not isinstance(runner.model, DistributedDataParallel):
            raise TypeError(
                f'GradientCompressionHook: needs a DistributedDataParallel model, got {type(runner.model).__name__}; '
                'drop the hook or model_wrapper_cfg'
            )
        else:
            runner.model.register_comm_hook(None, COMPRESSIONS[self.dtype])


# Given torch's bf16_compress_hook itself, DistributedDataParallel asks for nccl; gloo runs it as well.
def _bfloat16(state: None, bucket: GradBucket) -> Future[Tensor]:
    return default_hooks.bf16_compress_hook(state, bucket)


COMPRESSIONS = {'bfloat16': _bfloat16, 'float16': default_hooks.fp16_compress_hook}
