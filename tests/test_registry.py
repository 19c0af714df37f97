import pytest

from pab import registry
from pab.registry import MODELS, PRUNERS


def test_an_unknown_name_lists_the_known():
    with pytest.raises(KeyError, match=r"'SinFlow' is not a registered pruner; did you mean SynFlow\?.*GraSP, Mag"):
        PRUNERS.build(dict(type='SinFlow', density=0.5))
    with pytest.raises(KeyError, match=r"'ResNet19' is not a registered model; .*CIFARResNet"):
        MODELS.build(dict(type='ResNet19'))


def test_what_the_root_holds_is_found():
    assert registry.HOOKS.get('LoggerHook').__module__.startswith('mmengine')


def test_a_name_registered_twice_is_refused():
    with pytest.raises(KeyError, match='Mag is already registered'):
        PRUNERS.register_module(name='Mag')(type('Mag', (), {}))
