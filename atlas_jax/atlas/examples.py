"""Where each feature of an atlas is active: its strongest tokens, with the words around them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.atlas.sinks import is_content
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.progress import track

_ROWS = 4096
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d[\d.,]*\d|\d")


@dataclass(frozen=True)
class Activity:
    """Which tokens each feature is active on.

    Attributes:
        starts: feature f owns entries starts[f] to starts[f + 1].
        rows: row of the recorded activations, strongest first within a feature.
        values: activation there.
        n_rows: how many rows were read.
    """

    starts: Int[np.ndarray, " F_plus_1"]
    rows: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]
    n_rows: int

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values of one feature, strongest first."""
        part = slice(self.starts[feature], self.starts[feature + 1])
        return self.rows[part], self.values[part]


def find_activity(
    sae: SAE, acts: TokenActivations, max_norm: float, contexts: int | None = None
) -> Activity:
    """Encodes recorded activations and keeps what is active.

    Args:
        sae: the autoencoder.
        acts: recorded activations.
        max_norm: norm of an attention sink; those are not read.
        contexts: how many contexts to read, from the first; default all.
    """
    total = len(acts.tokens) if contexts is None else min(contexts, len(acts.tokens))
    n_rows = total * (acts.tokens.shape[1] - 1)

    @jax.jit
    def run(sae: SAE, x: jax.Array) -> jax.Array:
        return jnp.where(is_content(x, max_norm)[:, None], encode(sae, x), 0.0)

    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in track(range(0, n_rows, _ROWS), "finding where features are active"):
        x = np.asarray(acts.acts[start : min(start + _ROWS, n_rows)], np.float32)
        f = np.asarray(run(sae, jnp.asarray(x)))
        flat = np.flatnonzero(f)
        row, feature = np.divmod(flat, f.shape[1])
        parts.append(
            (
                feature.astype(np.int32),
                (row + start).astype(np.int32),
                f.reshape(-1)[flat].astype(np.float32),
            )
        )
    feature, rows, values = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.lexsort((-values, feature))
    starts = np.searchsorted(feature[order], np.arange(sae.n_features + 1))
    return Activity(starts.astype(np.int64), rows[order], values[order], n_rows)


@dataclass(frozen=True)
class Context:
    """A context cut into words.

    Attributes:
        words: in order; letters (with apostrophes), or a number.
        word_of: for each token, the index of the word it belongs to, or -1.
        pieces: each token's own text.
        before: for each token, the index of the last word that ended before it, or -1.
    """

    words: list[str]
    word_of: list[int]
    pieces: list[str]
    before: list[int]


@dataclass
class ContextReader:
    """Cuts contexts into words; each token's text is looked up once.

    Attributes:
        pieces: text of every token id.
        tokens: (contexts, length).
    """

    pieces: list[str]
    tokens: Int[np.ndarray, "contexts length"]
    _known: dict[int, Context] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Context:
        if index not in self._known:
            self._known[index] = cut_words([self.pieces[t] for t in self.tokens[index]])
        return self._known[index]


def cut_words(pieces: list[str]) -> Context:
    """Joins tokens to a text and says which word each token belongs to."""
    ends = np.cumsum([len(piece) for piece in pieces])
    text = "".join(pieces)
    words: list[str] = []
    owner = np.full(len(text) + 1, -1)
    last = np.full(len(text) + 1, -1)
    for match in _WORD.finditer(text):
        owner[match.start() : match.end()] = len(words)
        last[match.end() :] = len(words)
        words.append(match.group())
    word_of, before = [], []
    for piece, end in zip(pieces, ends, strict=True):
        inside = owner[end - len(piece) : end]
        found = inside[inside >= 0]
        # A token that spans two words belongs to the later one: it is where the model has read to.
        word = int(found[-1]) if len(found) else -1
        word_of.append(word)
        before.append(word - 1 if word >= 0 else int(last[end - len(piece)]))
    return Context(words, word_of, pieces, before)
