"""Activations with a known dictionary, as real ones are shifted and scaled."""

import numpy as np
import pytest

from atlas_jax.atlas.token_activations import TokenActivations


def planted(contexts: int = 640, length: int = 17, d: int = 32, n: int = 64, seed: int = 0):
    """Sparse positive codes of a dictionary, with a sink among every two hundred tokens or so."""
    r = np.random.default_rng(seed)
    rows = contexts * (length - 1)
    dictionary = r.normal(size=(n, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((rows, n))
    for _ in range(3):
        codes[np.arange(rows), r.integers(0, n, rows)] += r.uniform(0.5, 2, rows)
    x = 7 * codes @ dictionary + 5 * r.normal(size=d)
    x[r.random(rows) < 0.005] = 4000
    tokens = r.integers(0, 50, (contexts, length)).astype(np.int32)
    return TokenActivations(x.astype(np.float16), tokens), dictionary


@pytest.fixture(scope="session")
def data():
    return planted()
