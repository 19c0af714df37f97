import hashlib
import math
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest

from pab.models import draws


def test_stream_is_the_mersenne_twister_seeded_by_the_hash_of_seed_and_name():
    digest = hashlib.sha256(b'7/layer1.0.conv1.weight').digest()
    words = [int.from_bytes(digest[i : i + 4], 'little') for i in range(0, 32, 4)]
    want = np.random.RandomState(words).random_sample(5)
    assert draws.stream(7, 'layer1.0.conv1.weight').random_sample(5).tolist() == want.tolist()


@pytest.mark.parametrize(
    ('draw', 'want'),
    [  # these literals are a promise to every stored network: never change them
        (draws.uniform, [0.07951997169539293, 0.6216449612652535, -0.48627852828539253]),
        (draws.signs, [1.0, 1.0, -1.0]),
        (draws.normal, [0.17346970737457743, 1.3560941637987487, -1.5391016545401848]),
        (draws.laplace, [0.7760071556772656, -1.665069448835291, -0.2968718169119614]),
    ],
)
def test_frozen_values(draw, want):
    assert draw(draws.stream(0, 'conv1.weight'), 3).tolist() == want


def test_normal_by_hand():
    u, v = 2 * draws.stream(0, 'a').random_sample(2) - 1  # the first pair lies inside the circle
    square = u * u + v * v
    assert square < 1
    factor = math.sqrt(-2 * math.log(square) / square)
    assert draws.normal(draws.stream(0, 'a'), 2) == pytest.approx([u * factor, v * factor], rel=1e-15)


def test_normal_does_not_depend_on_the_chunk(monkeypatch):
    want = draws.normal(draws.stream(0, 'a'), 1001)
    monkeypatch.setattr(draws, 'CHUNK', 7)
    assert draws.normal(draws.stream(0, 'a'), 1001).tolist() == want.tolist()
    assert draws.normal(draws.stream(0, 'a'), 500).tolist() == want[:500].tolist()
    assert draws.normal(draws.stream(0, 'a'), 0).size == 0


def test_distributions():
    """Quantiles of 100,000 numbers against the distribution functions; one per cent is over six standard errors."""
    count = 100_000
    normal = np.sort(draws.normal(draws.stream(1, 'a'), count))
    laplace = np.sort(draws.laplace(draws.stream(1, 'a'), count))
    uniform = np.sort(draws.uniform(draws.stream(1, 'a'), count))
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        at = int(share * count)
        assert statistics.NormalDist().cdf(normal[at]) == pytest.approx(share, abs=0.01)
        x = laplace[at]
        cdf = 0.5 * math.exp(x) if x < 0 else 1 - 0.5 * math.exp(-x)
        assert cdf == pytest.approx(share, abs=0.01)
        assert (uniform[at] + 1) / 2 == pytest.approx(share, abs=0.01)
    assert abs(draws.signs(draws.stream(1, 'a'), count).mean()) < 0.02


def test_normal_numbers_are_not_correlated():
    pairs = draws.normal(draws.stream(1, 'a'), 100_000).reshape(-1, 2)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.02
    other = draws.normal(draws.stream(1, 'b'), 100_000)
    assert abs(np.corrcoef(pairs.ravel(), other)[0, 1]) < 0.02


def test_log_against_the_library():
    rng = np.random.RandomState(0)
    x = np.concatenate([rng.random_sample(20_000), 10 ** rng.uniform(-300, 300, 20_000), 1 + 1e-8 * rng.randn(1000)])
    assert draws.log(x) == pytest.approx([math.log(value) for value in x], rel=1e-15)
    assert draws.log(np.array([1.0])).tolist() == [0.0]


def test_the_vector_units_of_the_cpu_change_nothing():
    """The same numbers from a second interpreter whose numpy uses the oldest instructions only."""
    found = np.show_config(mode='dicts')['SIMD Extensions'].get('found', [])
    if not found:
        pytest.skip('numpy found no vector units beyond its baseline')
    code = 'import runpy, sys; d = runpy.run_path(sys.argv[1]); rng = d["stream"](0, "a"); '
    code += 'print(d["normal"](rng, 5000).tobytes().hex() + d["laplace"](rng, 5000).tobytes().hex())'
    environment = {**os.environ, 'NPY_DISABLE_CPU_FEATURES': ' '.join(found)}
    command = [sys.executable, '-W', 'ignore', '-c', code, draws.__file__]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    rng = draws.stream(0, 'a')
    assert printed.strip() == draws.normal(rng, 5000).tobytes().hex() + draws.laplace(rng, 5000).tobytes().hex()
