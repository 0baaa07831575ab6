"""A source whose activations are known in closed form."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError


class Words:
    """A tokenizer with one token for each word."""

    pad_id = 0

    def encode_batch(self, texts):
        return [
            [1 + hashlib.md5(word.encode()).digest()[0] % 50 for word in text.split()]
            for text in texts
        ]

    def pad(self, rows, length, left=False):
        tokens = np.zeros((len(rows), length), np.int32)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return tokens, mask


class TableSource:
    """Activations are rows of a table, one row for each token id."""

    name = "table"
    sites = ("blocks.0.a", "blocks.1.b")

    def __init__(self, seed=0, dtype=jnp.float32):
        rng = np.random.default_rng(seed)
        self.fingerprint = f"table-{seed}"
        self.tokenizer = Words()
        widths = dict(zip(self.sites, (6, 9), strict=True))
        self.tables = {s: rng.standard_normal((51, width)) for s, width in widths.items()}
        self.tables["blocks.1.b"] = np.maximum(self.tables["blocks.1.b"] - 1.5, 0)
        self.dtype = dtype
        self.calls = 0

    def width(self, site):
        if site not in self.tables:
            raise InputError(f"Expected a site among {', '.join(self.sites)}, got '{site}'.")
        return self.tables[site].shape[1]

    def read(self, tokens, mask, sites, pool=None):
        self.calls += 1
        acts = {s: jnp.asarray(self.tables[s], self.dtype)[jnp.asarray(tokens)] for s in sites}
        return {s: pool(a, jnp.asarray(mask)) if pool else a for s, a in acts.items()}

    def expected(self, texts, site):
        rows = self.tokenizer.encode_batch(list(texts))
        table = self.tables[site].astype(self.dtype)
        return np.stack([np.asarray(table[np.array(ids[1:])], np.float32).max(0) for ids in rows])


@pytest.fixture
def table_source():
    return TableSource


@pytest.fixture
def source():
    return TableSource()


@pytest.fixture
def texts():
    rng = np.random.default_rng(3)
    return Texts(
        [" ".join(f"w{i}" for i in rng.integers(0, 99, n)) for n in rng.integers(2, 90, 150)]
    )
