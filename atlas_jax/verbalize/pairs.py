"""Token pairs of two tokenizers: tokens that close the same prefix of the same text.

Both models are causal, so states at two tokens that end at character c are functions of the same
prefix text[:c]: no interpolation and no pooling stands between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from atlas_jax.errors import InputError
from atlas_jax.models.tokenizer import check_utf8

POOLINGS = ("token", "mean")


@dataclass(frozen=True)
class Pairing:
    """Which tokens are paired.

    Attributes:
        min_left: tokens that must lie to the left of a token on both sides (50: what verbalizers
            of natural-language autoencoders are trained with).
        per_text: pairs drawn from a text, at most.
        max_tokens: longer texts are cut, on each side.
        norm_factor: rows beyond so many times the running median norm are left out.
        pooling: `token`; or `mean` of each text's tokens, another estimand: it weighs what differs
            between texts more than what differs within them, (A_b S_b + A_w S_w / T)
            (S_b + S_w / T)^-1 instead of (A_b S_b + A_w S_w) (S_b + S_w)^-1, with S_b and S_w the
            covariances between and within texts of T tokens and A_b and A_w their maps.
        seed: of the draw.
    """

    min_left: int = 50
    per_text: int = 8
    max_tokens: int = 512
    norm_factor: float = 10.0
    pooling: str = "token"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(f"Expected pooling among {', '.join(POOLINGS)}, got '{self.pooling}'.")
        if self.min_left < 1 or self.per_text < 1 or self.max_tokens < 2 or self.norm_factor <= 1:
            raise InputError(
                "Expected min_left and per_text of at least 1, max_tokens of at least 2 and "
                f"norm_factor above 1, got {self.min_left}, {self.per_text}, {self.max_tokens} "
                f"and {self.norm_factor}."
            )


@dataclass(frozen=True)
class Encoded:
    """A text's tokens.

    Attributes:
        ids: token ids.
        ends: the character after each token's last one.
        special: tokens that stand for no text.
    """

    ids: Int[np.ndarray, " t"]
    ends: Int[np.ndarray, " t"]
    special: Bool[np.ndarray, " t"]


def closing_tokens(
    encoded: Encoded, min_left: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Where tokens end, in characters, and the token that closes each such prefix.

    Of several tokens that end at one character (the bytes of one letter), the last has seen all.
    """
    real = ~encoded.special & (encoded.ends > 0)
    position = np.flatnonzero(real)
    ends = encoded.ends[position]
    last = np.append(ends[1:] != ends[:-1], True)[: len(ends)]
    kept = last & (position >= min_left)
    return ends[kept], position[kept]


def shared_ends(
    source: Encoded, target: Encoded, min_left: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The positions of the source's and the target's tokens that end at the same character."""
    ends_s, at_s = closing_tokens(source, min_left)
    ends_t, at_t = closing_tokens(target, min_left)
    _, i, j = np.intersect1d(ends_s, ends_t, assume_unique=False, return_indices=True)
    return at_s[i], at_t[j]


def text_key(*parts: str) -> int:
    """A 63-bit number that names a text or a document: the same on every machine."""
    digest = hashlib.blake2b("\x00".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw_pairs(
    source: Encoded, target: Encoded, pairing: Pairing, key: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """At most `per_text` of the shared ends, drawn by the text's own key: no order matters."""
    at_s, at_t = shared_ends(source, target, pairing.min_left)
    if len(at_s) > pairing.per_text:
        rng = np.random.default_rng([pairing.seed, key])
        chosen = np.sort(rng.choice(len(at_s), pairing.per_text, replace=False))
        at_s, at_t = at_s[chosen], at_t[chosen]
    return at_s, at_t


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[Encoded | None]:
    """Tokens with their ends; None for a text whose length the tokenizer's normaliser changes.

    Args:
        tokenizer: a `models.Tokenizer`.
        texts: what to encode.
        max_tokens: longer ones are cut.

    Raises:
        InputError: a tokenizer that gives no offsets.
    """
    inner = tokenizer.inner
    if not getattr(inner, "is_fast", False):
        raise InputError(
            "Expected a fast tokenizer, which gives the characters of each token, got "
            f"{type(inner).__name__}: save the checkpoint with a tokenizer.json."
        )
    found = inner(
        check_utf8(texts),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    specials = np.array(sorted(inner.all_special_ids), np.int64)
    encoded: list[Encoded | None] = []
    for i, text in enumerate(texts):
        if _changes_length(inner, text):
            encoded.append(None)
            continue
        ids = np.array(found["input_ids"][i][:max_tokens], np.int64)
        ends = np.array([end for _, end in found["offset_mapping"][i][:max_tokens]], np.int64)
        mask = np.array(found["special_tokens_mask"][i][:max_tokens], bool)
        encoded.append(Encoded(ids, ends, mask | np.isin(ids, specials)))
    return encoded


def tokenizer_hash(tokenizer: Any) -> str:
    """Names the exact tokenizer."""
    return hashlib.sha256(tokenizer.inner.backend_tokenizer.to_str().encode()).hexdigest()[:32]


def _changes_length(inner: Any, text: str) -> bool:
    """Whether offsets might not be those of the text itself (a space mark in front is harmless)."""
    normalizer = inner.backend_tokenizer.normalizer
    if normalizer is None:
        return False
    made = normalizer.normalize_str(text)
    return len(made) - made.startswith("▁") + text.startswith((" ", "▁")) != len(text)
