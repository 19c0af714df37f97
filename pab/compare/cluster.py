"""All trainings on a cluster, each as a job of its own, by way of submitit."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .plan import Training
from .pool import Ended
from .training import Trainer, TrainingFailed, TrainingStopped

CLUSTERS = ('slurm', 'local')
JOB = 'job'  # file in the folder of a training: the cluster and the id of the job that was submitted last
DEFAULTS = {'timeout_min': 24 * 60}  # a training that takes longer is requeued and goes on
REQUEUES = 1000  # submitit gives up after three otherwise
# States of Slurm in which a job does not come back; one that is requeued has another.
FINAL = {'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED'}
FINAL |= {'REVOKED', 'TIMEOUT'}


class JobTrainer(Trainer):
    """The function of a job.

    A job that Slurm preempts or cancels is ended by SIGTERM, to the training too, which writes a checkpoint. It then
    leaves no result, and goes on where Slurm starts it again. Before a time limit submitit calls :meth:`checkpoint`.
    """

    def __call__(self, training: Training) -> None:
        """Run a training. If it is interrupted, end the process, so that submitit notes no result."""
        try:
            super().__call__(training)
        except TrainingStopped as error:
            raise SystemExit(128 + signal.SIGTERM) from error

    def checkpoint(self, training: Training) -> Any:
        """Stop the training, wait until its checkpoint is written, and say how to go on. A signal handler calls it."""
        from submitit.helpers import DelayedSubmission

        if not self.stopped:
            self.stop()
        for process in list(self._processes):
            with contextlib.suppress(ChildProcessError):  # another has noticed its end
                # not process.wait(), which the interrupted call may be in, holding its lock
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(replace(self), training)


def train_on_cluster(
    trainer: JobTrainer,
    trainings: Iterable[Training],
    cluster: str,
    folder: Path,
    options: Mapping[str, Any],
    ended: Ended,
    pause: float = 5.0,
) -> None:
    """Submit trainings, unless their jobs of an earlier call are still there, and wait for all of them.

    A job that is preempted or reaches its time limit writes a checkpoint, is requeued, and goes on. One that is
    cancelled ends by TrainingStopped.

    Args:
        trainer: the function of each job.
        cluster: one of ``CLUSTERS``; ``'local'`` starts processes on this machine, all at once.
        folder: for what submitit keeps of its jobs.
        options: parameters of ``submitit.AutoExecutor``, such as ``timeout_min`` and ``slurm_partition``.
        ended: called for each training, in this thread.
        pause: seconds between two looks at the jobs.

    Raises:
        ImportError: submitit is not installed.
        ValueError: this machine belongs to no such cluster, or submitit or Slurm does not take an option.
        OSError: Slurm's controller does not answer.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError('--cluster needs submitit: pip install submitit') from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f'{cluster}_max_num_timeout': REQUEUES})
        further = {'requeue': True, **options.get('slurm_additional_parameters', {})}  # whatever JobRequeue says
        executor.update_parameters(**DEFAULTS | dict(options) | {'slurm_additional_parameters': further})
    except (NameError, AssertionError, RuntimeError) as error:  # a wrong name, a wrong type, no such cluster here
        raise ValueError(f'--cluster {cluster}: {error}') from error
    kinds = {'slurm': submitit.SlurmJob, 'local': submitit.LocalJob}
    jobs, present = {}, _in_queue() if cluster == 'slurm' else set()
    for training in trainings:
        file, before = training.folder / JOB, None
        if file.is_file():
            where, number = file.read_text().split()
            before = kinds[where](folder, number)
        if before is None or _is_over(before, present):
            try:
                jobs[training] = executor.submit(trainer, training)
            except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
                raise ValueError(f'--cluster {cluster}: {str(error).strip().splitlines()[-1]}') from error
            write_atomically(f'{cluster} {jobs[training].job_id}'.encode(), file)
        else:
            jobs[training] = before
    while jobs:
        time.sleep(pause)
        try:
            present = _in_queue() if cluster == 'slurm' else set()
        except OSError:  # a controller that is started anew; ask again
            continue
        for training, job in list(jobs.items()):
            if _is_over(job, present):
                del jobs[training]
                ended(training, _error(job))


def _in_queue() -> set[str]:
    """The ids of this user's jobs that Slurm runs or will run; OSError if it does not answer."""
    command = ['squeue', '--noheader', f'--user={os.getuid()}', '--states=all', '--format=%A %T']
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        raise OSError(f'--cluster slurm: {(asked.stderr.strip().splitlines() or ["squeue failed"])[-1]}')
    jobs = [line.split() for line in asked.stdout.splitlines()]
    return {number for number, state in jobs if state not in FINAL}


def _is_over(job: Any, in_queue: set[str]) -> bool:
    """True if a job has ended for good. Submitit says so of a job that failed before Slurm requeued it, too."""
    return job.done() if type(job).__name__ == 'LocalJob' else job.job_id not in in_queue


def _error(job: Any) -> Exception | None:
    """The error of a training, read from the text of its traceback, which is all that submitit hands over."""
    if type(job).__name__ != 'LocalJob' and not job.paths.result_pickle.exists():
        return TrainingStopped()
    error = job.exception()
    raised = re.search(r'TrainingFailed: (.*)', str(error))
    return TrainingFailed(raised[1]) if raised else error
