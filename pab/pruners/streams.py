"""Random numbers that depend on a seed and a tensor's name alone: not on device, order or torch's version."""

import hashlib

import numpy as np


class Streams:
    """Open one random stream for each name: ``generator('conv1.weight').standard_normal((8, 3))``.

    Every call opens the stream from its start, so a score drawn again in a later round is the same score. numpy's
    legacy ``RandomState`` is fixed for ever; torch promises no stable stream.

    Args:
        seed: any whole number.
    """

    def __init__(self, seed: int):
        self._seed = int(seed)

    def __call__(self, name: str) -> np.random.RandomState:
        # The prefix keeps these numbers apart from an initialisation that is keyed by the same seed and name.
        digest = hashlib.sha256(f'prune/{self._seed}/{name}'.encode()).digest()
        return np.random.RandomState(np.frombuffer(digest, dtype='<u4').astype(np.uint32))
