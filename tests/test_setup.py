"""What setup.cfg asks for."""

import configparser
import re
from pathlib import Path

from pab.export import TORCH_FOR_ONNX

CONFIG = configparser.ConfigParser()
CONFIG.read(Path(__file__).parents[1] / 'setup.cfg')
EXTRAS = CONFIG['options.extras_require']


def test_every_requirement_has_a_lower_bound_that_can_be_installed():
    """.ci/lower_bounds installs exactly that version, so it has every number."""
    for text in (CONFIG['options']['install_requires'], *EXTRAS.values()):
        for line in filter(None, text.split('\n')):
            assert line.startswith('pab-signs[') or re.fullmatch(r'[\w-]+[>=]=\d+(\.\d+)+(,<[\d.]+)?', line), line


def test_the_torch_for_onnx_is_that_of_the_extra():
    assert f'\ntorch>={TORCH_FOR_ONNX}.0\n' in EXTRAS['export']
