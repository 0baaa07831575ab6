"""Low-rank changes of a decoder whose own weights stay (Hu et al. 2021)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from atlas_jax.models.decoder import Decoder
from atlas_jax.models.dense import Dense, matmul

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")


class Learned(nnx.Param):
    """A parameter that training changes."""


class LowRank(nnx.Module):
    """x W + b + x A B (eq. 3, with alpha = r); W and b stay as they are.

    Args:
        dense: whose kernel is W, stacked over layers.
        rank: r.
        key: of A, whose entries have variance 1 / d_in; B starts at zero.
    """

    def __init__(self, dense: Dense, rank: int, key: Array) -> None:
        layers, d_in, d_out = dense.kernel[...].shape
        self.dense = dense
        self.a = Learned(jax.random.normal(key, (layers, d_in, rank)) / jnp.sqrt(float(d_in)))
        self.b = Learned(jnp.zeros((layers, rank, d_out)))

    def __call__(self, x: Array) -> Array:
        low = matmul(x.astype(jnp.float32), self.a[...])
        return self.dense(x) + matmul(low, self.b[...]).astype(x.dtype)


def adapt(model: Any, rank: int, seed: int) -> tuple[Any, Any, Any]:
    """A decoder with a low-rank change of every projection: its graph, what is learned, the rest.

    Args:
        model: a `LanguageModel`; it stays as it is.
        rank: of the changes.
        seed: of their start, at which the decoder computes what it computed before.
    """
    decoder: Decoder = nnx.merge(model.graph, model.state)
    for i, (owner, name) in enumerate(_projections(decoder)):
        key = jax.random.fold_in(jax.random.key(seed), i)
        setattr(owner, name, LowRank(getattr(owner, name), rank, key))
    graph, learned, rest = nnx.split(decoder, Learned, ...)
    return graph, learned, rest


def merged(graph: Any, learned: Any, frozen: Any) -> Any:
    """The state of a plain decoder whose kernels are W + A B."""
    decoder: Decoder = nnx.merge(graph, learned, frozen)
    for owner, name in _projections(decoder):
        changed: LowRank = getattr(owner, name)
        kernel = changed.dense.kernel[...]
        whole = kernel.astype(jnp.float32) + _product(changed.a[...], changed.b[...])
        dense = changed.dense
        dense.kernel = nnx.Param(whole.astype(kernel.dtype))
        setattr(owner, name, dense)
    return nnx.state(decoder)


def _product(
    a: Float[Array, "layers m r"], b: Float[Array, "layers r n"]
) -> Float[Array, "layers m n"]:
    return jnp.einsum("lmr,lrn->lmn", a, b, precision=lax.Precision.HIGHEST)


def _projections(decoder: Decoder) -> list[tuple[Any, str]]:
    blocks: Any = decoder.blocks
    found = [(blocks.attn, name) for name in ATTENTION]
    return found + [(blocks, name) for name in MLP if hasattr(blocks, name)]
