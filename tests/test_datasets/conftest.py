"""Real data, unpacked once: into the folder ``$PAB_TEST_CACHE`` when that is set, else anew in every run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def unpacked(shared, tmp_path_factory):
    """A function: name of a data set -> the folder that holds it."""
    folder = Path(os.environ.get('PAB_TEST_CACHE') or tmp_path_factory.mktemp('data'))
    script = shared / 'tools' / 'unpack_data.py'

    def unpack(name: str) -> Path:
        if not script.is_file():
            pytest.skip(f'no real data: {script} is missing')
        subprocess.run([sys.executable, str(script), str(folder), name], check=True, capture_output=True)
        return folder

    return unpack


@pytest.fixture(scope='session')
def photographs(unpacked) -> Path:
    """The folder with imagenet/train and imagenet/val: 1,000 photographs of 1,000 classes."""
    return unpacked('imagenet')


@pytest.fixture(scope='session')
def cifar10_root(unpacked) -> Path:
    """The folder with cifar-10-batches-py."""
    return unpacked('cifar10')
