"""The networks of the reference numbers, and what is given to pruners; imported when asked for (tests/conftest)."""

import pytest


@pytest.fixture(scope='session')
def golden(golden_folder):
    from .pruning import Golden

    return Golden(golden_folder / 'pruners.npz')


@pytest.fixture(scope='session')
def golden_resnet20(golden_folder):
    from .pruning import Golden

    return Golden(golden_folder / 'synflow_resnet20.npz')


@pytest.fixture
def resnet20():
    from pab.registry import MODELS

    return MODELS.build(dict(type='CIFARResNet', depth=20))


@pytest.fixture
def net():
    """A small network with statistics and biases that are not the identity."""
    from .pruning import shortcut_net

    return shortcut_net()


@pytest.fixture
def batches():
    import torch

    stream = torch.Generator().manual_seed(2)
    return [(torch.randn(6, 3, 8, 8, generator=stream), torch.randint(10, (6,), generator=stream)) for _ in range(2)]


@pytest.fixture
def flips(net):
    import torch

    stream = torch.Generator().manual_seed(3)
    return {
        f'{name}.weight': torch.randint(0, 9, module.weight.shape, generator=stream)
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }


@pytest.fixture
def masks(net):
    from pab.registry import PRUNERS

    return PRUNERS.build(dict(type='SynFlow', density=0.3, prunable=('Conv2d', 'Linear'))).prune(
        net, input_shape=(3, 8, 8)
    )
