"""Encoding and pooling in blocks: equal to encoding everything first, within the stated memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.activations.pool import POOLS
from atlas_jax.atlas.pooled import (
    BLOCK_BYTES,
    block_width,
    encode_pooled,
    encode_pooled_apart,
    features_apart,
)
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh

B, T, D, F = 3, 5, 8, 50


def make(architecture, k=None, normalize="none", duplicate=False):
    r = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(r.normal(size=shape).astype(np.float32))

    w_enc, b_enc = array(D, F), array(F)
    if duplicate:  # equal activations, also across blocks
        w_enc = w_enc.at[:, 20:40].set(w_enc[:, :20])
        b_enc = b_enc.at[20:40].set(b_enc[:20])
    theta = jnp.abs(array(F)) if architecture == "jumprelu" else None
    return SAE(w_enc, b_enc, array(F, D), array(D), theta, architecture, k, True, normalize)


def batch():
    r = np.random.default_rng(1)
    x = jnp.asarray(r.normal(size=(B, T, D)).astype(np.float32) * 2)
    mask = jnp.asarray(np.arange(T)[None] < np.array([5, 3, 2])[:, None])
    content = mask & jnp.asarray(r.random((B, T)) > 0.2)
    return x, content, mask


@pytest.mark.parametrize(
    ("width", "pool"), [*((7, pool) for pool in POOLS), (49, "max"), (50, "max")]
)
@pytest.mark.parametrize(
    ("architecture", "k"), [("standard", None), ("jumprelu", None), ("topk", 6)]
)
def test_equals_encoding_first(architecture, k, width, pool):
    sae = make(architecture, k, duplicate=True)
    x, content, mask = batch()
    wanted = POOLS[pool](jnp.where(content[:, :, None], encode(sae, x), 0.0), mask)
    bytes_ = width * 4 * B * T
    assert block_width(F, B * T, D, bytes_) == width
    got = jax.jit(encode_pooled, static_argnums=(4, 5))(sae, x, content, mask, POOLS[pool], bytes_)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Which features are active does not depend on rounding: equals go to the lower one.
    np.testing.assert_array_equal(got > 0, wanted > 0)


@pytest.mark.parametrize(("shape", "k"), [((2, 4), 6), ((1, 8), 20)])
def test_features_apart_give_what_one_device_gives(shape, k):
    """Also of equals, and of more than a device has features (20 of 8, 64 in all)."""
    r = np.random.default_rng(2)

    def whole(*shape):  # whole numbers: sums are exact, and there are many equals
        return r.integers(-2, 3, shape).astype(np.float32)

    weights = [jnp.asarray(whole(*s)) for s in ((D, 64), (64,), (64, D), (D,))]
    sae = SAE(*weights, architecture="topk", k=k)
    x, mask = jnp.asarray(whole(4, T, D)), jnp.ones((4, T), bool)
    mesh = make_mesh(*shape)
    assert features_apart(sae, mesh)
    got = encode_pooled_apart(sae, x, mask, mask, POOLS["mean"], mesh)
    wanted = POOLS["mean"](encode(sae, x), mask)
    assert got.sharding.shard_shape(got.shape) == (4 // shape[0], 64 // shape[1])
    np.testing.assert_array_equal(got, wanted)
    assert len(np.unique(np.asarray(x @ sae.W_enc))) < 64  # equals abound


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
def test_normalised_inputs(normalize):
    sae = make("jumprelu", normalize=normalize)
    x, content, mask = batch()
    x = x.at[0, 1].set(jnp.zeros(D))
    wanted = POOLS["max"](jnp.where(content[:, :, None], encode(sae, x), 0.0), mask)
    got = encode_pooled(sae, x, content, mask, POOLS["max"], 400)
    assert np.isfinite(np.asarray(got)).all()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_batch_top_k_is_refused():
    x, content, mask = batch()
    with pytest.raises(InputError, match="batchtopk"):
        encode_pooled(make("batchtopk", 3), x, content, mask, POOLS["max"])


@pytest.mark.parametrize(("d", "f"), [(2304, 65_536), (256, 1_048_576)])
@pytest.mark.parametrize(("architecture", "k"), [("jumprelu", None), ("topk", 64)])
def test_memory_stays_within_the_bound(architecture, k, d, f):
    """Compiled for shapes alone: nothing of that size is allocated here."""
    b, t = 16, 128

    def shape(*axes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(axes, dtype)

    w_enc, b_enc, w_dec, b_dec = shape(d, f), shape(f), shape(f, d), shape(d)
    masks = (shape(b, t, dtype=bool), shape(b, t, dtype=bool))

    def pooled(w_enc, b_enc, w_dec, b_dec, theta, x, content, mask):
        theta = theta if architecture == "jumprelu" else None
        sae = SAE(w_enc, b_enc, w_dec, b_dec, theta, architecture, k)
        return encode_pooled(sae, x, content, mask, POOLS["max"])

    arrays = (w_enc, b_enc, w_dec, b_dec, shape(f), shape(b, t, d), *masks)
    compiled = jax.jit(pooled).lower(*arrays).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used <= 4 * BLOCK_BYTES + 16 * b * t * (d + 2 * (k or 0))
    assert used < 4 * b * t * f / 2
