"""Where one feature is active: how often, and the texts around its strongest activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.atlas.blocks import row_blocks
from atlas_jax.atlas.sae import SAE, encode, only
from atlas_jax.atlas.sinks import is_content
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.progress import track

_ROWS = 8192
_BEFORE, _AFTER = 24, 8


@dataclass(frozen=True)
class Context:
    """A text with a strong activation; `token` is the piece it falls on, "" for a whole text."""

    activation: float
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class FeatureUse:
    """How a feature is used.

    Attributes:
        density: share of tokens (or texts) on which it is active.
        counted: how many there were.
        unit: "tokens" or "texts".
        contexts: the strongest, one of each context.
    """

    density: float
    counted: int
    unit: str
    contexts: tuple[Context, ...]


class Pieces(Protocol):
    """What is needed of the tokenizer."""

    @property
    def bos_id(self) -> int | None: ...

    def pieces(self, ids: Any) -> list[str]: ...


def use_in_tokens(
    sae: SAE, feature: int, acts: TokenActivations, max_norm: float, pieces: Pieces, k: int = 5
) -> FeatureUse:
    """How a feature is used in recorded activations; attention sinks are not counted.

    Only this feature is encoded, or, where it competes with the others, one block of tokens at a
    time (see `blocks`).
    """
    values, counted = [], 0
    alone, column = only(sae, feature)
    for start in track(range(0, len(acts.acts), _ROWS), "reading recordings"):
        for _, x in row_blocks(acts.acts[start : start + _ROWS], alone.n_features):
            f, content = _column(alone, x, max_norm, column)
            values.append(np.asarray(f))
            counted += int(content)
    every = np.concatenate(values) if values else np.zeros(0, np.float32)
    length = acts.tokens.shape[1]
    found: dict[int, Context] = {}
    for row in np.argsort(-every, kind="stable"):
        if every[row] <= 0 or len(found) == k:
            break
        context, place = divmod(int(row), length - 1)
        if context not in found:
            text = pieces.pieces(acts.tokens[context])
            at = place + 1
            while not text[at] and at + 1 < len(text):  # the character ends with a later token
                at += 1
            if acts.tokens[context][0] == pieces.bos_id:
                text[0] = ""
            found[context] = Context(
                float(every[row]),
                "".join(text[max(0, at - _BEFORE) : at]),
                text[at],
                "".join(text[at + 1 : at + 1 + _AFTER]),
            )
    density = float((every > 0).sum() / max(counted, 1))
    return FeatureUse(density, counted, "tokens", tuple(found.values()))


@partial(jax.jit, static_argnames=("column",))
def _column(
    sae: SAE, x: Float[Array, "n d"], max_norm: float | Float[Array, ""], column: int
) -> tuple[Float[Array, " n"], Array]:
    content = is_content(x, max_norm)
    return jnp.where(content, encode(sae, x)[:, column], 0.0), jnp.sum(content)


def use_in_texts(
    activations: Float[np.ndarray, " n"], texts: Sequence[str], k: int = 5
) -> FeatureUse:
    """How a feature is used in captured texts, by its pooled activation on each."""
    order = np.argsort(-activations, kind="stable")[:k]
    contexts = tuple(
        Context(float(activations[i]), texts[int(i)], "", "") for i in order if activations[i] > 0
    )
    return FeatureUse(float((activations > 0).mean()), len(activations), "texts", contexts)
