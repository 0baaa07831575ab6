"""Activations of a few texts, read into memory by this process whatever others do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from atlas_jax.activations.parts import cut_into_parts
from atlas_jax.activations.recorder import record
from atlas_jax.activations.recording import Recording, Source
from atlas_jax.activations.tokens import Corpus, tokenize
from atlas_jax.activations.writer import check_finite


class Kept:
    """A sink (`recorder.Sink`) that keeps the parts."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.waited = self.busy = 0.0
        self.bytes = 0
        self.parts: dict[int, np.ndarray] = {}

    def write(self, part: int, start: int, arrays: Mapping[str, np.ndarray]) -> None:
        (name,) = arrays
        check_finite(name, start, arrays[name])
        self.parts[part] = arrays[name]

    def check(self) -> None: ...

    def finish(self) -> None: ...


def read_texts(
    source: Source,
    texts: Corpus,
    site: str,
    pool: str = "max",
    batch_tokens: int = 2048,
    max_tokens: int = 512,
) -> Shaped[np.ndarray, "n d"]:
    """Row i is text i, as `capture` would record it.

    A model that lies over several processes is asked by all of them alike.

    Raises:
        InputError: what `capture` refuses.
    """
    recording, label = Recording.ask(source, [site], pool, None, texts, max_tokens), source.name
    longest = recording.meta["max_tokens"]
    tokens, kept = tokenize(source.tokenizer, texts, longest, f"{label}: encoding"), Kept()
    rows = recording.plan(tokens, batch_tokens, None)["rows_per_part"]
    parts = cut_into_parts(rows, tokens, by_token=False)
    record(recording, tokens, parts, range(len(parts)), batch_tokens, kept, label)
    return np.concatenate([kept.parts[part.index] for part in parts])
