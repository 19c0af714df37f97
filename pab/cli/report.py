"""Make the report of a run again, or one page for several runs.

pab report work_dirs/r18_cifar10
pab report work_dirs/a work_dirs/b --out compared.html
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import check_free, write_atomically
from ..report.run import compare_runs, distinct_names, read_record, write_report
from ..run.launch import errors_in_one_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='folders of runs')
    parser.add_argument('--out', type=Path, default=Path('compared.html'), help='page for several runs (%(default)s)')
    parser.add_argument('--force', action='store_true', help='write over that page if it is there')
    return parser.parse_args()


def drawn(draw: Callable, *args: Any) -> Any:
    """Draw records; ValueError for one whose parts have another form than ReportHook's."""
    try:
        return draw(*args)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f'a report.json cannot be drawn: {type(error).__name__}: {error}') from error


def main() -> None:
    args = parse_args()
    with errors_in_one_line():
        records = [read_record(folder) for folder in args.work_dirs]
        if len(records) == 1:
            print(drawn(write_report, args.work_dirs[0], records[0]))
            return
        check_free(args.out, args.force)
        page = drawn(compare_runs, dict(zip(distinct_names(args.work_dirs), records, strict=True)))
        write_atomically(page.encode(), args.out)
        print(args.out)
