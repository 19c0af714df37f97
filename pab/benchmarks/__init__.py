"""The measures of ``pab benchmark``, one a file, and their baseline."""
