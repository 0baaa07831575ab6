"""Repeats removed and sentences drawn, one part of the spilled sentences at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from atlas_jax.corpus.spill import PARTS, RANK, SCHEMA, read_part
from atlas_jax.corpus.texts import COLUMNS, counts_of
from atlas_jax.progress import track


def write_unique(spills: Sequence[Path], bounds: tuple[float, float], path: Path) -> dict[str, int]:
    """Writes each text within the bounds once, in the order of the draw; returns counts by source.

    Of a repeated text, the one whose source and document come first in the alphabet is kept: the
    order in which documents were read plays no role.
    """
    low, high = bounds
    found: Counter[str] = Counter()
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(str(path), schema, options=options) as writer:
        for part in track(range(PARTS), "removing repeats"):
            table = read_part(spills, part)
            lengths = table["length"].to_numpy()
            table = table.filter(pa.array((lengths >= low) & (lengths <= high)))
            if not len(table):
                continue
            order = [("rank", "ascending"), ("source", "ascending"), ("document", "ascending")]
            table = table.sort_by(order)
            table = table.filter(pa.array(_first(table["rank"])))
            found.update(counts_of(table["source"]))
            writer.write_table(table.select(COLUMNS))
    return dict(sorted(found.items()))


def draw(path: Path, quotas: Mapping[str, int]) -> Iterator[pa.Table]:
    """Yields the first sentences of each source, as many as its quota, in the order of the draw."""
    left = dict(quotas)
    with pa.OSFile(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            encoded = batch["source"].dictionary_encode()
            codes = encoded.indices.to_numpy()
            drawn = np.zeros(len(codes), bool)
            for code, source in enumerate(encoded.dictionary.to_pylist()):
                rows = np.flatnonzero(codes == code)[: left[source]]
                left[source] -= len(rows)
                drawn[rows] = True
            if drawn.any():
                yield pa.Table.from_batches([batch.filter(pa.array(drawn))])
            if not any(left.values()):
                return


def quotas(counts: Mapping[str, int], n: int) -> dict[str, int]:
    """Divides `n` in proportion to `counts` by largest remainder; names break ties."""
    total = sum(counts.values())
    exact = {source: divmod(n * c, total) for source, c in counts.items()}
    result = {source: whole for source, (whole, _) in exact.items()}
    by_remainder = sorted(counts, key=lambda source: (-exact[source][1], source))
    for source in by_remainder[: n - sum(result.values())]:
        result[source] += 1
    return result


def _first(ranks: pa.ChunkedArray) -> np.ndarray:
    """Where a sorted column differs from the row before."""
    column = ranks.combine_chunks()
    whole = np.frombuffer(column.buffers()[1] or b"", np.uint64, count=-1)
    values = whole.reshape(-1, RANK // 8)[column.offset : column.offset + len(column)]
    first = np.ones(len(values), bool)
    first[1:] = (values[1:] != values[:-1]).any(1)
    return first
