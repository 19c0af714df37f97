"""The two ways in which a pass over weights runs."""

import warnings

import pytest


@pytest.fixture(params=['compiled', 'plain'])
def way(request, monkeypatch):
    """Each way, with a limit so low that small tensors take it; skipped where there is no compiler."""
    import torch

    from pab import compiled
    from pab.optim import Bop, flips

    monkeypatch.setenv('PAB_COMPILE', '1' if request.param == 'compiled' else '0')
    monkeypatch.setattr(compiled, '_failed', False)
    if request.param == 'compiled':
        monkeypatch.setattr(flips, 'BLOCK', 0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            weight = torch.nn.Parameter(torch.ones(2))
            weight.grad = torch.ones(2)
            Bop([weight]).step()
        if not compiled.is_compiled():
            pytest.skip('no compiler')
    else:
        monkeypatch.setattr(flips, 'BLOCK', 500)
    yield
    assert compiled.is_compiled() == (request.param == 'compiled'), 'it was given up on the way'
