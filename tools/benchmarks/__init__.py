"""The measures of ``tools/benchmark.py``, one a file, and their baseline."""
