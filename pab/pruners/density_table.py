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
    rows += [(name, f'{kept:,}', f'{n:,}', f'{kept / n:.4f}' if kept else 'empty') for name, kept, n in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
