"""The measures of ``tools/benchmark.py``, one a file, and what they are compared with."""
