"""Putting vectors into a verbalizer's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.outside import refusing
from atlas_jax.verbalize.sidecar import Description

_SMALLEST = 1e-6


def prompt_ids(tokenizer: Any, description: Description) -> tuple[list[int], int]:
    """The prompt's token ids, and where the marker is.

    The chat template is rendered to text, which is then encoded: in one step some tokenizers fall
    back to bytes at the marker.

    Raises:
        InputError: the marker is not there once, or has other neighbours or another id.
    """
    char, marker, left, right = description.marker
    text = description.template.replace("{injection_char}", char)
    ids = [int(i) for i in tokenizer.chat([{"role": "user", "content": text}])]
    known = tokenizer.inner.convert_tokens_to_ids(char)
    if known is not None and known != tokenizer.inner.unk_token_id and known != marker:
        raise InputError(
            f"Expected the marker {char!r} to be token {marker}, the tokenizer says {known}: do "
            "sidecar and tokenizer belong together?"
        )
    found = [i for i, token in enumerate(ids) if token == marker]
    if len(found) != 1:
        raise InputError(
            f"Expected the marker {char!r} (token {marker}) once in the prompt, found it "
            f"{len(found)} times: a normaliser may have rewritten it, or another tokenizer is used."
        )
    at = found[0]
    sides = tuple(ids[i] if 0 <= i < len(ids) else None for i in (at - 1, at + 1))
    if sides != (left, right):
        raise InputError(
            f"Expected the marker between the tokens {left} and {right}, found it between "
            f"{sides[0]} and {sides[1]}: the prompt or the tokenizer differs from the sidecar's."
        )
    return ids, at


def at_length(
    vectors: Float[np.ndarray, "n d"], scale: float | None, natural: float | None
) -> Float64[np.ndarray, "n d"]:
    """v scale / ||v||; with scale None, at the natural length of the site's activations.

    Raises:
        InputError: a vector that is zero or not finite, or no length.
    """
    length = natural if scale is None else scale
    if length is None:
        raise InputError(
            "Expected a background for a verbalizer without an injection scale: it says how long "
            "the site's activations are."
        )
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all() or (norms <= _SMALLEST * np.median(norms)).any():
        raise InputError("Expected vectors that are finite and not zero.")
    return vectors * (length / norms)[:, None]


class Adapter:
    """The embeddings of tokens before the prompt, and the projection of the vector.

    Args:
        path: a safetensors file with `prefix` (n, d) and `projection` (d_model, d).
    """

    def __init__(self, path: str | Path) -> None:
        from safetensors.numpy import load_file

        with refusing(f"prefix and projection in the adapter {path}"):
            tensors = load_file(path)
            self.prefix, self.projection = tensors["prefix"], tensors["projection"]
            if self.prefix.ndim != 2 or self.projection.ndim != 2:
                raise ValueError("expected two matrices")

    def project(self, vectors: Float64[np.ndarray, "n d_model"]) -> Float64[np.ndarray, "n d"]:
        """What takes the place of the marker's embedding."""
        return vectors @ self.projection.astype(np.float64)


def embed_prompt(
    embedded: Float[Array, "t d"],
    position: int,
    vectors: Float32[np.ndarray, "n d"] | None,
    prefix: Float[np.ndarray, "k d"] | None = None,
) -> Float[Array, "n t2 d"]:
    """The embedded prompt once for each vector, the row at `position` replaced by it.

    Args:
        embedded: what `model.embed` gives.
        position: of the marker.
        vectors: at their final length; None leaves the marker's own row.
        prefix: rows to put before the prompt.
    """
    if prefix is not None:
        embedded = jnp.concatenate([jnp.asarray(prefix, embedded.dtype), embedded])
        position += len(prefix)
    if vectors is None:
        return embedded[None]
    rows = jnp.broadcast_to(embedded[None], (len(vectors), *embedded.shape))
    return rows.at[:, position].set(jnp.asarray(vectors).astype(embedded.dtype))
