"""Blocks of tokens: the same numbers however small they are, and never more than they may be."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas import blocks
from atlas_jax.atlas.card import measure_card
from atlas_jax.atlas.contexts import use_in_tokens
from atlas_jax.atlas.describing import activity
from atlas_jax.atlas.describing.activity import find_activity
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.atlas.token_activations import TokenActivations

D, F = 8, 24


class Letters:
    bos_id = None

    def pieces(self, ids):
        return [chr(97 + i) for i in np.asarray(ids)]


@pytest.fixture(params=["jumprelu", "topk"])
def sae(request):
    r = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(r.normal(size=shape).astype(np.float32))  # noqa: E731
    top = request.param == "topk"
    theta = None if top else jnp.full(F, 1.0)
    return SAE(
        array(D, F), array(F), array(F, D), array(D), theta, request.param, 3 if top else None
    )


@pytest.fixture
def recorded():
    r = np.random.default_rng(1)
    tokens = r.integers(0, 26, (9, 6)).astype(np.int32)
    return TokenActivations(r.normal(size=(45, D)).astype(np.float32), tokens)


@pytest.fixture
def small(monkeypatch):
    """Seven tokens at a time; what `encode` was given, block by block."""
    seen = []

    def counted(sae, x):
        seen.append(x.shape[0] * sae.n_features * 4)
        return encode(sae, x)

    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7 * 4 * F)
    monkeypatch.setattr(activity, "encode", counted)
    return seen


def test_rows_of_a_block():
    assert blocks.block_rows(4096) * 4096 * 4 == blocks.BLOCK_BYTES
    for n in (1, 65_536, 1_000_003):
        assert blocks.block_rows(n) * n * 4 <= blocks.BLOCK_BYTES
    assert blocks.block_rows(1 << 40) == 1


def test_activity_is_the_same_in_small_blocks(sae, recorded, small):
    f = np.asarray(encode(sae, jnp.asarray(recorded.acts)))
    found = find_activity(sae, recorded, 100.0, range(2, 9))
    assert small and max(small) <= blocks.BLOCK_BYTES
    for feature in range(F):
        rows, values = found.of(feature)
        wanted = [row for row in np.flatnonzero(f[:, feature]) if row >= 10]
        assert sorted(rows) == wanted
        np.testing.assert_allclose(values, f[rows, feature], rtol=1e-6)
        assert (np.diff(values) <= 0).all()


def test_use_and_card_are_the_same_in_small_blocks(sae, recorded, monkeypatch):
    often = int((np.asarray(encode(sae, jnp.asarray(recorded.acts))) > 0).sum(0).argmax())
    whole = use_in_tokens(sae, often, recorded, 100.0, Letters())
    card = measure_card(sae, recorded, max_norm=100.0, heldout=9)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7 * 4 * F)
    use = use_in_tokens(sae, often, recorded, 100.0, Letters())
    assert use.density == whole.density and len(use.contexts) == len(whole.contexts) > 1
    assert [c.activation for c in use.contexts] == pytest.approx(
        [c.activation for c in whole.contexts]
    )
    again = measure_card(sae, recorded, max_norm=100.0, heldout=9)
    assert again.pop("density") == card.pop("density")
    assert again == pytest.approx(card)
