"""Passages of the package texts, for the benchmarks of bridges and verbalizers."""

from __future__ import annotations

from typing import Any


def passages(length: int, held_of: int = 8) -> tuple[Any, Any]:
    """Passages of whole documents, in a fixed random order: to fit on, and held out.

    Args:
        length: in characters; cut at white space, and the last piece of a document may be shorter.
        held_of: one document in so many is held out.
    """
    import numpy as np

    from atlas_jax.corpus import Texts, documents
    from atlas_jax.verbalize.pairs import text_key

    rows: dict[bool, list[tuple[str, str, str]]] = {False: [], True: []}
    for document in documents("packages"):
        held = text_key(document.source, document.document) % held_of == 0
        text, start = document.text, 0
        while len(text) - start > 0.6 * length:
            end = text.rfind(" ", start, start + length)
            end = end if end > start + length // 2 else min(start + length, len(text))
            rows[held].append((text[start:end].strip(), document.source, document.document))
            start = end
    found = []
    for part in rows.values():
        order = np.random.default_rng(0).permutation(len(part))
        found.append(Texts(*([part[i][column] for i in order] for column in range(3))))
    return found[0], found[1]
