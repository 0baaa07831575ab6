"""Capture: run a model over texts and record what it does, resumably."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import jax

from atlas_jax.activations.layout import IDS, OFFSETS
from atlas_jax.activations.parts import cut_into_parts
from atlas_jax.activations.pool import Pools
from atlas_jax.activations.recorder import record
from atlas_jax.activations.recording import Recording, Source
from atlas_jax.activations.store import ActivationStore
from atlas_jax.activations.tokens import Corpus, tokenize
from atlas_jax.activations.writer import StoreWriter
from atlas_jax.parallel import agree, barrier


def capture(
    source: Source,
    texts: Corpus,
    sites: Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str],
    pool: Pools = "max",
    dtype: str | None = None,
    batch_tokens: int = 2048,
    max_tokens: int = 512,
    rows_per_part: int | None = None,
    progress: str | None = None,
) -> ActivationStore:
    """Records the activations of every text, in the order of the texts, all sites in one pass.

    Row i of a pooled array is text i: its site's activations, pooled over its real tokens but the
    first. With `pool="tokens"` rows are tokens, of all texts one after the other. A store that an
    earlier run left unfinished is completed: parts that are on disk are not computed again.

    Batches are spread over the `data` axis of the mesh that the model was loaded on. Where JAX runs
    as several processes, each records parts of its own, and all return when the last is done. If
    the model lies over devices of all, they read each batch together, and each writes its parts.

    Args:
        source: a language model or an atlas.
        texts: the corpus.
        sites: names; default: the source's own.
        out: folder or kvstore URL (file, gs, s3, memory).
        pool: `max`, `mean`, `absmax`, `last`, or several of them; or `tokens`; or one of these for
            each site.
        dtype: of the stored values: `float32`, `bfloat16` or `float16`; default: the model's.
        batch_tokens: positions of a batch. It may differ when a run is resumed (values then agree
            to rounding).
        max_tokens: longer texts are cut, and those beyond what the model was made for; the store
            says how many.
        rows_per_part: rows planned, computed and written together; default: about 32 batches.
        progress: label of the progress bar.

    Raises:
        InputError: an unknown site, pooling or dtype, a text of one token (naming its row), values
            that are not finite, a full disk, or a store that holds something else.
    """
    recording = Recording.ask(source, sites, pool, dtype, texts, max_tokens)
    finished = recording.is_finished(out)
    if recording.together:
        finished = agree("capture is finished", str(finished)) == "True"
    if not finished:
        label = progress or f"reading {source.name}"
        longest = recording.meta["max_tokens"]
        tokens = tokenize(source.tokenizer, texts, longest, f"{label}: encoding")
        process = jax.process_index()
        with StoreWriter(
            out, recording.plan(tokens, batch_tokens, rows_per_part), process
        ) as writer:
            if recording.by_token and process == 0:
                writer.write_once(IDS, tokens.ids)
                writer.write_once(OFFSETS, tokens.offsets)
            parts = cut_into_parts(writer.meta["rows_per_part"], tokens, recording.by_token)
            mine = parts[process :: jax.process_count()]
            if recording.together:
                done = agree("parts that are done", json.dumps(sorted(writer.done)))
                writer.done = set(json.loads(done))
            read = parts if recording.together else mine
            own = {part.index for part in mine}
            report = record(recording, tokens, read, own, batch_tokens, writer, label)
            if report.texts:
                writer.write_json(f"report/{process:04d}", report.to_dict())
    barrier("capture")
    return ActivationStore.open(out)
