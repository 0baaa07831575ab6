"""How active features are at each token of some texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas_jax.models import LanguageModel
from atlas_jax.on_host import on_host

_BATCH, _STEP = 8, 32


def read_heat(
    model: LanguageModel, places: Sequence[tuple[str, str, int]], max_tokens: int
) -> list[tuple[list[str], list[float]]]:
    """Runs the model on each text.

    Batches have one size and few lengths, so that they share an executable.

    Args:
        model: the subject.
        places: (text, site, feature) of each.
        max_tokens: a longer text is cut.

    Returns:
        For each its tokens, and the feature's activation at each as a share of the largest one in
        that text; 0 where it is below zero, and at the first token.
    """
    if not places:
        return []
    sites = tuple(sorted({site for _, site, _ in places}))
    ids = [row[:max_tokens] for row in model.tokenizer.encode_batch([text for text, *_ in places])]
    longest = -(-max(map(len, ids)) // _STEP) * _STEP
    found = []
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        filled = part + [part[0]] * (_BATCH - len(part))
        acts = model.read(*model.tokenizer.pad(filled, longest), sites)
        for i, row in enumerate(part):
            _, site, feature = places[start + i]
            values = np.array(on_host(acts[site][i, : len(row), feature]), np.float32)
            values[:1] = 0.0
            top = max(float(values.max(initial=0.0)), 1e-9)
            first = int(bool(row) and row[0] == model.tokenizer.bos_id)
            heat = [round(max(float(v), 0.0) / top, 3) for v in values[first:]]
            found.append(_in_characters(model.tokenizer.pieces(row[first:]), heat))
    return found


def _in_characters(pieces: Sequence[str], heat: Sequence[float]) -> tuple[list[str], list[float]]:
    """Tokens that share a character as one, with the largest heat of them."""
    texts: list[str] = []
    shares: list[float] = []
    highest = 0.0
    for piece, share in zip(pieces, heat, strict=True):
        highest = max(highest, share)
        if piece:
            texts.append(piece)
            shares.append(highest)
            highest = 0.0
    return texts, shares
