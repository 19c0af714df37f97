"""The trainings of a comparison as jobs of a cluster, by submitit."""

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..compare.plan import Training
from ..compare.pool import Ended
from ..compare.training import Trainer, TrainingFailed
from ..files import write_atomically

CLUSTERS = ('slurm', 'local')
JOB = 'job'  # file in the folder of a training: cluster and id of its last job
DEFAULTS = {'timeout_min': 24 * 60}  # a training that takes longer is requeued and goes on
REQUEUES = 1000  # submitit gives up after three otherwise


def train_on_cluster(
    trainer: Trainer,
    trainings: Iterable[Training],
    cluster: str,
    folder: Path,
    options: Mapping[str, Any],
    ended: Ended,
    pause: float = 5.0,
) -> None:
    """Submit trainings and wait for them; a job of an earlier call that still runs is waited for instead.

    A job that is preempted or reaches its time limit writes a checkpoint, is requeued, and goes on.

    Args:
        trainer: the function of each job.
        cluster: one of ``CLUSTERS``; ``'local'`` starts processes on this machine, all at once.
        folder: for submitit's own files.
        options: parameters of ``submitit.AutoExecutor``, such as ``timeout_min`` and ``slurm_partition``.
        ended: called for each training, in this thread.
        pause: seconds between two looks at the jobs.

    Raises:
        ImportError: submitit is not installed.
        ValueError: this machine belongs to no such cluster, or submitit does not know an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--cluster needs submitit: pip install -e '.[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f'{cluster}_max_num_timeout': REQUEUES})
        executor.update_parameters(**DEFAULTS | dict(options))
    except (NameError, AssertionError, RuntimeError) as error:  # a wrong name, a wrong type, no such cluster here
        raise ValueError(f'--cluster {cluster}: {error}') from error
    kinds = {'slurm': submitit.SlurmJob, 'local': submitit.LocalJob}
    jobs = {}
    for training in trainings:
        file, job = training.folder / JOB, None
        if file.is_file():
            where, number = file.read_text().split()
            job = kinds[where](folder, number)
        if job is None or job.done():
            job = executor.submit(trainer, training)
            write_atomically(f'{cluster} {job.job_id}'.encode(), file)
        jobs[training] = job
    while jobs:
        time.sleep(pause)
        for training, job in list(jobs.items()):
            if job.done():
                del jobs[training]
                error = job.exception()  # submitit hands over only the text of a traceback
                raised = re.search(r'TrainingFailed: (.*)', str(error))
                ended(training, TrainingFailed(raised[1]) if raised else error)
