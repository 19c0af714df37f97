"""What a pruning left: a table by tensor, and the tensors that it emptied."""

from collections.abc import Mapping

from torch import Tensor


def empty_tensors(masks: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that keep no weight at all."""
    return [name for name, mask in masks.items() if not mask.any()]


def density_table(masks: Mapping[str, Tensor]) -> str:
    """Write kept, total and density of every tensor and of all together as an aligned text table, one line each.

    Args:
        masks: name -> bool tensor, True where a weight is kept.
    """
    counts = [(name, int(mask.sum()), mask.numel()) for name, mask in masks.items()]
    counts.append(('all', sum(kept for _, kept, _ in counts), sum(total for _, _, total in counts)))
    rows = [('tensor', 'kept', 'total', 'density')]
    rows += [(name, f'{kept:,}', f'{total:,}', _share(kept, total)) for name, kept, total in counts]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return '\n'.join(
        '  '.join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _share(kept: int, total: int) -> str:
    if kept == 0:
        return 'empty'
    return f'{kept / total:.4f}'
