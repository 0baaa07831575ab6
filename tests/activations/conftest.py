"""A source whose activations are known in closed form."""

import hashlib
from functools import partial

import jax
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


@partial(jax.jit, static_argnames="pool")  # one program for all sources
def look_up(tables, tokens, mask, pool):
    acts = {site: table[tokens] for site, table in tables.items()}
    return {site: pool(a, mask) if pool else a for site, a in acts.items()}


class TableSource:
    """Activations are rows of a table, one row for each token id."""

    name = "table"
    sites = ("blocks.0.a", "blocks.1.b")
    mesh = None

    def __init__(self, seed=0, dtype=jnp.float32, widths=(6, 9)):
        rng = np.random.default_rng(seed)
        self.fingerprint = f"table-{seed}"
        self.tokenizer = Words()
        self.tables = {
            site: rng.standard_normal((51, width))
            for site, width in zip(self.sites, widths, strict=True)
        }
        self.tables["blocks.1.b"] = np.maximum(self.tables["blocks.1.b"] - 1.5, 0)
        self.dtype = dtype
        self.shapes = []

    def width(self, site):
        if site not in self.tables:
            raise InputError(f"Expected a site among {', '.join(self.sites)}, got '{site}'.")
        return self.tables[site].shape[1]

    def read(self, tokens, mask, sites, pool=None):
        self.shapes.append(tokens.shape)
        tables = {site: jnp.asarray(self.tables[site], self.dtype) for site in sites}
        return look_up(tables, tokens, mask, pool)

    def tokens(self, texts, site):
        """Of each text, the activations of its tokens, float32."""
        table = self.tables[site].astype(self.dtype).astype(np.float32)
        return [table[np.array(ids)] for ids in self.tokenizer.encode_batch(list(texts))]

    def expected(self, texts, site, pool=lambda acts: acts.max(0)):
        return np.stack([pool(acts[1:]) for acts in self.tokens(texts, site)])


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
        [" ".join(f"w{i}" for i in rng.integers(0, 99, n)) for n in rng.integers(2, 40, 150)]
    )
