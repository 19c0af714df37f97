"""torchrun, which ends by the message of the process that ended the job, and not by tracebacks of its own."""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

try:
    run(parse_args(None))
except SignalException as error:
    sys.exit(128 + error.sigval)
except ChildFailedError as error:
    _, failure = error.get_first_failure()
    sys.exit(128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode)
