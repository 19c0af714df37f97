"""Gradients sent between processes in 16 bits."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from ..registry import HOOKS

COMPRESSIONS = {
    # Given torch's hook itself, DistributedDataParallel asks for nccl; gloo runs it as well.
    'bfloat16': lambda state, bucket: default_hooks.bf16_compress_hook(state, bucket),
    'float16': default_hooks.fp16_compress_hook,
}


@HOOKS.register_module()
class GradientCompressionHook(Hook):
    r"""Average the gradients of all processes in 16 bits, by torch's own communication hooks.

    Each process divides its gradients by the number of processes and rounds them, :math:`g_r \to c(g_r / R)`; the sum
    over processes r is formed in that type and widened again, so every process gets the same numbers. Bop reads only
    an average over some 1/gamma steps, in which the rounding of single steps mostly cancels.

    Args:
        dtype: 'bfloat16' (8 bits of mantissa, the range of float32) or 'float16' (11 bits; magnitudes below 6e-8
            become 0, as small PSG gradients are), else ValueError.

    Example:
        ``tools/dist_train.sh CONFIG 8 --cfg-options default_hooks.compression.type=GradientCompressionHook``
    """

    def __init__(self, dtype: str = 'bfloat16') -> None:
        if dtype not in COMPRESSIONS:
            raise ValueError(f'GradientCompressionHook: dtype must be one of {sorted(COMPRESSIONS)}, got {dtype!r}')
        self.dtype = dtype

    def before_train(self, runner: Runner) -> None:
        """Tell the distributed model how to average; TypeError for any but a DistributedDataParallel model."""
        if isinstance(runner.model, DistributedDataParallel):
            runner.model.register_comm_hook(None, COMPRESSIONS[self.dtype])
        elif runner.distributed:
            model = type(runner.model).__name__
            raise TypeError(
                f'GradientCompressionHook: needs a DistributedDataParallel model, got {model}; drop the hook'
            )
        else:
            runner.logger.warning('GradientCompressionHook: a run of one process sends no gradients')
