"""Fit while the models read: the same translations as from stores, and nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from atlas_jax.activations.batches import Batch, plan_batches
from atlas_jax.activations.pool import POOLS
from atlas_jax.activations.recording import Source
from atlas_jax.activations.tokens import Corpus, tokenize
from atlas_jax.errors import InputError
from atlas_jax.parallel import one_at_a_time, overlap, processes_of
from atlas_jax.translate import Options, Plan, Translation, fit_inputs
from atlas_jax.translate.fit import collect
from atlas_jax.translate.methods import DEFAULTS

_ROWS = 1024
"""Texts read together: batches of like length are made within them."""


def fit_streaming(
    model: Source,
    atlas: Source,
    texts: Corpus,
    sites: Sequence[str] | None = None,
    methods: Sequence[str] = ("procrustes",),
    *,
    options: Options = DEFAULTS,
    pool: str = "max",
    batch_tokens: int = 2048,
    max_tokens: int = 512,
    moments: str | Path | None = None,
    **how: Any,
) -> dict[str, dict[str, Translation]]:
    """Fits translations while both models read the texts; no activation is stored.

    Equal to capturing both and fitting from the stores, but for float32 rounding. Semantic Lens
    reads its winning texts once more through the atlas. Models on devices of their own, such as
    `make_mesh(devices=jax.devices()[:6])` and `[6:]`, read at the same time. Of several processes
    each reads its share of the texts, on devices of its own.

    Args:
        model: the subject.
        atlas: its concepts.
        texts: the corpus.
        sites: of the subject; default: its own.
        methods: names among `METHODS`.
        options: settings of the methods.
        pool: `max`, `mean`, `absmax` or `last`.
        batch_tokens: positions of a batch of the models.
        max_tokens: longer texts are cut.
        moments: folder to save the sums in; a fit that was stopped goes on from there.
        how: further fields of `Plan`: batch_rows, mesh, layout, max_memory, save_every, report.

    Returns:
        {site: {method: Translation}}.

    Raises:
        InputError: an unknown site, pooling or method, or a text of one token.
    """
    reading = {"pool": pool, "batch_tokens": batch_tokens, "max_tokens": max_tokens}
    names = tuple(dict.fromkeys(sites if sites is not None else model.sites))
    if not names:
        raise InputError("Expected at least one subject site, got none.")
    plan = Plan(moments=moments, **{"batch_rows": _ROWS, **how})
    inputs = LiveInputs(
        _Reader(model, texts, names, plan.mesh, **reading),
        _Reader(atlas, texts, atlas.sites[:1], plan.mesh, **reading),
    )
    return collect(fit_inputs(inputs, methods, options, plan))


class LiveInputs:
    """Rows of both sides, computed when they are read (`translate.rows.Inputs`)."""

    def __init__(self, subject: _Reader, atlas: _Reader) -> None:
        self.subject, self.atlas = subject, atlas
        self.n = len(subject.texts)
        self.apart = not overlap(subject.source.mesh, atlas.source.mesh)
        self.widths = {site: subject.source.width(site) for site in subject.sites}
        self.atlas_width = atlas.source.width(atlas.sites[0])

    def read(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The pooled activations of the texts from `start` to `stop`."""
        rows, site = np.arange(start, stop), self.atlas.sites[0]
        if not self.apart:
            return self.subject.read(rows), self.atlas.read(rows)[site]
        with ThreadPoolExecutor(1) as beside:
            atlas = beside.submit(self.atlas.read, rows)
            return self.subject.read(rows), atlas.result()[site]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The atlas rows of some texts, read again."""
        return self.atlas.read(indices)[self.atlas.sites[0]]

    def about(self) -> dict[str, Any]:
        """What identifies the rows."""
        subjects = {site: self.subject.about(site) for site in self.subject.sites}
        return {
            "subjects": subjects,
            "atlas": self.atlas.about(self.atlas.sites[0]),
            "texts": self.subject.texts.hash,
            "pool": self.subject.pool,
            "n": self.n,
        }


class _Reader:
    """A model that reads texts and gives their pooled activations."""

    def __init__(
        self,
        source: Source,
        texts: Corpus,
        sites: Sequence[str],
        sums: Mesh | None,
        pool: str,
        batch_tokens: int,
        max_tokens: int,
    ) -> None:
        if max_tokens < 2:
            raise InputError(f"Expected max_tokens of at least 2, got {max_tokens}.")
        if pool not in POOLS:
            raise InputError(f"Expected a pooling among {', '.join(POOLS)}, got '{pool}'.")
        if len(processes_of(source.mesh)) > 1:
            raise InputError(
                f"Expected {source.name} on devices of this process, got it on those of several: "
                "each process reads its own texts, load it with mesh=make_mesh(local=True), or "
                "capture it and fit from the store."
            )
        self.source, self.texts, self.sites = source, texts, tuple(sites)
        self.pool, self.batch_tokens = pool, batch_tokens
        longest = min(max_tokens, getattr(source, "context_length", max_tokens))
        self.tokens = tokenize(source.tokenizer, texts, longest, f"{source.name}: encoding")
        mesh = source.mesh
        self.split = None if mesh is None else NamedSharding(mesh, PartitionSpec("data"))
        self.devices = 1 if mesh is None else mesh.shape["data"]
        shared = sums is not None and overlap(mesh, sums)
        self.turn = one_at_a_time if shared else nullcontext()

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """By site, (n, d), in the order of `rows`; a batch is always under way."""
        found: dict[str, np.ndarray] = {}

        def keep(batch: Batch, acts: dict[str, Array]) -> None:
            for site in self.sites:
                values = np.asarray(acts[site])[: len(batch.rows)]
                whole = found.setdefault(site, np.empty((len(rows), values.shape[1]), values.dtype))
                whole[batch.rows] = values

        waiting: list[tuple[Batch, dict[str, Array]]] = []
        for batch in plan_batches(self.tokens.lengths[rows], self.batch_tokens):
            mine = Batch(rows[batch.rows], batch.length, batch.size)
            tokens, mask = self.tokens.batch(mine, 0, self.devices, self.source.tokenizer.pad_id)
            if self.split is not None:
                tokens, mask = jax.device_put((tokens, mask), self.split)
            with self.turn:
                acts = self.source.read(tokens, mask, self.sites, POOLS[self.pool])
            waiting.append((batch, acts))
            if len(waiting) > 1:
                keep(*waiting.pop(0))
        for last in waiting:
            keep(*last)
        return found

    def about(self, site: str) -> dict[str, Any]:
        """One side of a translation's header."""
        return {
            "model": self.source.name,
            "fingerprint": self.source.fingerprint,
            "site": site,
            "width": self.source.width(site),
        }
