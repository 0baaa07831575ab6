"""Encoding and decoding against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas.sae import SAE, decode, encode

D, F = 12, 40


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    r = np.random.default_rng(seed)
    return {
        "W_enc": r.normal(size=(D, F)).astype(np.float32),
        "b_enc": r.normal(size=F).astype(np.float32),
        "W_dec": r.normal(size=(F, D)).astype(np.float32),
        "b_dec": r.normal(size=D).astype(np.float32),
    }


def make(architecture: str, k: int | None = None, subtract: bool = False) -> SAE:
    theta = jnp.asarray(np.random.default_rng(1).uniform(0, 4, F).astype(np.float32))
    return SAE(
        **{name: jnp.asarray(value) for name, value in weights().items()},
        threshold=theta if architecture == "jumprelu" else None,
        architecture=architecture,  # type: ignore[arg-type]
        k=k,
        apply_b_dec_to_input=subtract,
    )


def oracle(sae: SAE, x: np.ndarray) -> np.ndarray:
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    x = x.astype(np.float64) - (w["b_dec"] if sae.apply_b_dec_to_input else 0)
    z = x @ w["W_enc"] + w["b_enc"]
    if sae.architecture == "jumprelu":
        return z * (z > np.asarray(sae.threshold, np.float64))
    f = np.maximum(z, 0)
    if sae.architecture == "topk":
        return np.where(z >= np.sort(z, -1)[..., -sae.k, None], f, 0)
    if sae.architecture == "batchtopk":
        return np.where(z >= np.sort(z.ravel())[-sae.k * (z.size // F)], f, 0)
    return f


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize(
    ("architecture", "k"), [("standard", None), ("jumprelu", None), ("topk", 5), ("batchtopk", 5)]
)
@pytest.mark.parametrize("shape", [(D,), (7, D), (3, 4, D)])
def test_encode_and_decode(architecture, k, subtract, shape):
    sae = make(architecture, k, subtract)
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    wanted = oracle(sae, x)
    got = jax.jit(encode)(sae, jnp.asarray(x))
    assert got.shape == (*shape[:-1], F)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    back = decode(sae, got)
    w = weights()
    np.testing.assert_allclose(
        back, wanted @ w["W_dec"].astype(np.float64) + w["b_dec"], rtol=1e-4, atol=1e-4
    )


def test_jumprelu_is_strict_at_the_threshold():
    one = jnp.ones
    sae = SAE(
        one((1, 2)), jnp.zeros(2), one((2, 1)), jnp.zeros(1), jnp.array([1.0, 0.5]), "jumprelu"
    )
    np.testing.assert_array_equal(encode(sae, one((1,))), [0.0, 1.0])


def test_contractions_ask_for_full_precision():
    sae = make("standard")
    for function, shape in ((encode, (3, D)), (decode, (3, F))):
        text = str(jax.make_jaxpr(function)(sae, jnp.ones(shape)))
        assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") > 0


def test_static_fields_survive_a_tree_map():
    sae = jax.tree.map(lambda a: a * 2, make("topk", 5, True))
    assert (sae.architecture, sae.k, sae.apply_b_dec_to_input) == ("topk", 5, True)
    assert (sae.width, sae.n_features) == (D, F)
