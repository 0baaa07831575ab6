"""Several sites of a model in one pass, and pairs that are read once and kept."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


class SideBySide:
    """A model whose one site, `all`, is some of its sites beside each other.

    Args:
        model: a `LanguageModel`.
        sites: of it.
    """

    def __init__(self, model: Any, sites: list[str]) -> None:
        self.model, self.sites = model, tuple(sites)
        self.tokenizer, self.name, self.fingerprint = model.tokenizer, model.name, model.fingerprint

    def width(self, site: str) -> int:
        """Of all of them."""
        return sum(self.model.width(one) for one in self.sites)

    def read(self, tokens: Any, mask: Any, sites: Any) -> dict[str, Any]:
        """Their activations."""
        import jax.numpy as jnp

        found = self.model.read(tokens, mask, self.sites)
        return {"all": jnp.concatenate([found[site] for site in self.sites], axis=-1)}


def read_pairs(
    source: Any, target: Any, texts: Any, pairing: Any, wanted: int, folder: Path
) -> tuple[Any, Any, Any, dict[str, int]]:
    """Rows of both sides and the document of each, the first `wanted`; a file for each block.

    Files that are there are not read again, whatever settings they were made with: name another
    folder for others.
    """
    import numpy as np

    from atlas_jax.verbalize.reading import PairReader

    folder.mkdir(parents=True, exist_ok=True)
    reader = PairReader(source, target, texts, pairing)
    parts, begin, count = [], 0, 0
    for path in sorted(folder.glob("*.npz")):
        part = dict(np.load(path))
        parts.append(part)
        begin, count = int(part["texts"]), count + len(part["x"])
    started, first = time.monotonic(), count
    blocks = reader.blocks(begin) if count < wanted else iter(())
    while count < wanted:
        block = next(blocks, None)
        if block is None:
            print(f"only {count} pairs: there are no more texts", flush=True)
            break
        part = {"x": block.source, "y": block.target, "documents": block.documents}
        part["texts"] = np.array(block.texts)
        draft = folder / f"{begin:07}.partial"
        with draft.open("wb") as file:
            np.savez(file, **part)
        os.replace(draft, folder / f"{begin:07}.npz")
        parts.append(part)
        begin, count = block.texts, count + len(block.source)
        pace = (time.monotonic() - started) / max(count - first, 1)
        left = pace * max(wanted - count, 0) / 60
        print(f"  {count}/{wanted} pairs, {left:.0f} min left", flush=True)
    x, y, documents = (
        np.concatenate([part[key] for part in parts])[:wanted] for key in ("x", "y", "documents")
    )
    return x, y, documents, dict(reader.dropped)
