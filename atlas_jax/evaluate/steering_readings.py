"""What the atlas sees in a text: the mean activation of a query's features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_jax.activations.batches import plan_batches
from atlas_jax.activations.pool import pool_max
from atlas_jax.journal import Journal, digest
from atlas_jax.progress import Bar

_MAX_TOKENS = 512
_BATCH_TOKENS = 2048


def read_features(
    atlas: Any,
    texts: Sequence[str],
    features: Sequence[Sequence[int]],
    out: str | os.PathLike[str] | None = None,
) -> Float[np.ndarray, " n"]:
    """For each text, the mean over some features of their activation, max-pooled as `capture` does.

    Args:
        atlas: read through its foundation model.
        texts: a text is run once, however often it comes.
        features: for each text, the numbers of the features.
        out: a journal of what was read before.

    Returns:
        (n,), 0 for a text of fewer than two tokens, of which nothing is read.
    """
    keys = [
        digest(atlas.fingerprint, text, sorted(set(map(int, chosen))))
        for text, chosen in zip(texts, features, strict=True)
    ]
    with Journal(out) as journal:
        waiting: dict[str, dict[str, np.ndarray]] = {}
        for key, text, chosen in zip(keys, texts, features, strict=True):
            if key not in journal:
                waiting.setdefault(text, {})[key] = np.unique(np.asarray(chosen, np.int64))
        # The tokenizer refuses an empty list.
        encoded = atlas.tokenizer.encode_batch(list(waiting)) if waiting else []
        ids = dict(zip(waiting, encoded, strict=True))
        journal.add(
            {"id": key, "activation": 0.0}
            for text, wanted in waiting.items()
            if len(ids[text]) < 2
            for key in wanted
        )
        long = [text for text in waiting if len(ids[text]) >= 2]
        rows = [ids[text][:_MAX_TOKENS] for text in long]
        with Bar("reading texts in the atlas", len(rows)) as bar:
            for batch in plan_batches([len(row) for row in rows], _BATCH_TOKENS):
                part = [rows[i] for i in batch.rows]
                filled = part + [part[0]] * (batch.size - len(part))
                tokens, mask = atlas.tokenizer.pad(filled, batch.length)
                acts = np.asarray(atlas.read(tokens, mask, pool=pool_max)[atlas.feature_site])
                journal.add(
                    {"id": key, "activation": float(acts[row, chosen].mean(dtype=np.float64))}
                    for row, i in enumerate(batch.rows)
                    for key, chosen in waiting[long[i]].items()
                )
                bar.advance(len(part))
        return np.array([journal[key]["activation"] for key in keys], np.float64)
