"""mmengine's loop with all hooks of a run, beside a bare loop that does the same work on a copy of the model."""

import contextlib
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

from mmengine.config import Config
from mmengine.device import get_device

from ..optim import Bop
from ..registry import LOOPS, RUNNERS
from ..run import ResumableEpochLoop
from ..run.config import read_config
from ..run.config_files import find_config
from . import images  # noqa: F401 (registers RandomImages)
from .networks import two_optimizers
from .timing import Row, Settings, alternate, row

OURS, BARE = 'mmengine loop, hooks', 'bare loop'


@LOOPS.register_module()
class PairedLoop(ResumableEpochLoop):
    """Epochs of the run, in turns with epochs of a bare loop over the same data loader."""

    settings: Settings
    seconds: dict[str, list[float]]

    def run(self):
        """Measure; the result is in ``seconds`` of the class."""
        self.runner.call_hook('before_train')
        bare = _bare_epoch(copy.deepcopy(self.runner.model), self.dataloader)
        type(self).seconds = alternate({OURS: self.run_epoch, BARE: bare}, self.settings)
        return self.runner.model


def measure(settings: Settings) -> list[Row]:
    """ResNet-20, batch 128, random images; nothing is validated or saved meanwhile."""
    batch, steps = 8 if settings.tiny else 128, 6
    # mmengine takes a GPU where there is one
    PairedLoop.settings = replace(settings.for_small_ratios(), device=get_device())
    with tempfile.TemporaryDirectory() as folder:
        cfg = _config(batch, steps, folder, settings)
        with contextlib.redirect_stdout(sys.stderr):  # the run's own reports
            RUNNERS.build(cfg).train()
    case = f'ResNet-{cfg.model.network.depth}, batch {batch}, {steps} steps, {PairedLoop.settings.device}'
    seconds = PairedLoop.seconds
    added = sorted(a - b for a, b in zip(seconds[OURS], seconds[BARE], strict=True))[len(seconds[OURS]) // 2]
    added_text = f'{1e3 * added / steps:.3g} ms'
    return [row('loop', case, OURS, seconds, peer=BARE, added_per_step=added_text), row('loop', case, BARE, seconds)]


def _config(batch: int, steps: int, folder: str, settings: Settings) -> Config:
    cfg = read_config(find_config('pab/r20_cifar10'))
    cfg.merge_from_dict(
        dict(
            work_dir=folder,
            log_level='WARNING',
            train_cfg=dict(type='PairedLoop', max_epochs=10**6),
            default_hooks=dict(
                checkpoint=dict(interval=-1, save_best=None),
                prune=dict(pruner=dict(_delete_=True, type='Mag', density=0.3)),
            ),
            param_scheduler=dict(sgd=[]),
        )
    )
    if settings.tiny:
        cfg.model.network.update(depth=8, width=4)
    cfg.train_dataloader.batch_size = batch
    cfg.train_dataloader.dataset = dict(type='RandomImages', num_images=batch * steps)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        cfg[key] = None
    return cfg


def _bare_epoch(model, loader) -> Callable[[], float]:
    optimizers = two_optimizers(Bop)(model.network)

    def run() -> float:
        start = time.perf_counter()
        model.train()
        for batch in loader:
            loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss']
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return time.perf_counter() - start

    return run
