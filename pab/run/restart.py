"""Jobs that torchrun starts again by itself after a process has died (``--max-restarts``)."""

import os

from mmengine.config import Config

from .loading import find_newest


def prepare_for_restarts(cfg: Config) -> None:
    """Let a job that was started again go on from its newest checkpoint, and see to it that this can only be its own.

    A job that is started for the first time does what its config says. One that is started again resumes, whatever
    the config says, if it has written a checkpoint by then.

    Args:
        cfg: with ``work_dir``; ``resume`` and ``load_from`` are changed.

    Raises:
        ValueError: a new run may be restarted, in a folder with checkpoints of another.
        UnusableCheckpoint: every checkpoint in the folder is damaged.
    """
    restarts, allowed = (int(os.environ.get(f'TORCHELASTIC_{name}', 0)) for name in ('RESTART_COUNT', 'MAX_RESTARTS'))
    if restarts == 0 and (allowed == 0 or cfg.get('resume')):
        return
    newest = find_newest([cfg.work_dir], lambda _: None)
    if restarts == 0:
        if newest is not None:
            raise ValueError(
                f'--max-restarts: {cfg.work_dir} already holds {newest.name}, which a restart would take for a '
                'checkpoint of this run; go on from it with --resume, or give this run another --work-dir'
            )
    elif newest is not None:
        cfg.resume, cfg.load_from = True, None  # the runner looks again, and names what it passes over
