import pytest

from pab.psg import PSGConfig, PSGConv2d, PSGLinear


def test_defaults_are_those_of_the_recipes():
    assert PSGConfig() == PSGConfig(8, 8, 16, 1e-7, True, True, False, False)


@pytest.mark.parametrize('name', ['input_bits', 'weight_bits', 'grad_bits'])
def test_bits(name):
    assert getattr(PSGConfig(**{name: 1}), name) == 1
    for wrong in (0, 8.0, True):
        with pytest.raises(ValueError, match=f'PSGConfig: {name} must be an int >= 1, got {wrong}'):
            PSGConfig(**{name: wrong})


@pytest.mark.parametrize('threshold', [-1e-7, float('inf'), float('nan')])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match=r'threshold must be finite and >= 0, got .*relative=True'):
        PSGConfig(threshold=threshold)


def test_frozen():
    with pytest.raises(AttributeError):
        PSGConfig().threshold = 0.1


@pytest.mark.parametrize('layer', [lambda **kw: PSGConv2d(1, 1, 1, **kw), lambda **kw: PSGLinear(1, 1, **kw)])
def test_layers_refuse_settings_of_another_type(layer):
    with pytest.raises(TypeError, match='psg must be a PSGConfig, got'):
        layer(psg=dict(input_bits=8))
