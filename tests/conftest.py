"""What tests of every part share: small seeded networks, and the folder of reference numbers and real data."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder with golden numbers and real data: ``$PAB_SHARED``, by default ``shared`` beside the checkout."""
    folder = Path(os.environ.get('PAB_SHARED', Path(__file__).parents[2] / 'shared'))
    if not (folder / 'golden').is_dir():
        pytest.skip(f'no reference numbers at {folder}: set PAB_SHARED to the folder that holds golden/ and data/')
    return folder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
