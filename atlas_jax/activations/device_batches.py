"""Rows of a store as arrays on devices, read ahead; a process reads what its devices hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array

from atlas_jax.activations.site_array import Read, SiteArray


def device_batches(
    rows: SiteArray, size: int, sharding: Sharding, prefetch: int = 2
) -> Iterator[tuple[Array, int]]:
    """All rows in order, `size` at a time, laid out over devices.

    Each device's share is read from the store on its own: of several processes, none reads the
    rows of another. `prefetch` batches are under way ahead.

    Args:
        rows: of a store.
        size: of a batch; the axis of rows must divide it.
        sharding: of a batch, (size, d).

    Yields:
        A batch (size, d), and how many of its rows are real: in the last batch, zeros follow them.
    """
    n, width = rows.shape
    shape = (size, width)
    shares: dict[tuple[int, int, int, int], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        (a, b, _), (c, d, _) = (
            s.indices(extent) for s, extent in zip(index or (slice(None),) * 2, shape, strict=True)
        )
        shares.setdefault((a, b, c, d), []).append(device)
    waiting: deque[tuple[int, list[Read | None]]] = deque()

    def place(start: int, reads: list[Read | None]) -> tuple[Array, int]:
        placed = []
        for ((a, b, c, d), devices), read in zip(shares.items(), reads, strict=True):
            part = np.zeros((b - a, d - c), rows.dtype)
            if read is not None:
                first, last = start + a, min(start + b, n)
                part[: last - first] = rows.checked(read, first, last)
            placed += [jax.device_put(part, device) for device in devices]
        batch = jax.make_array_from_single_device_arrays(shape, sharding, placed)
        return batch, min(size, n - start)

    for start in range(0, n, size):
        reads = [
            Read(rows.array[start + a : min(start + b, n), c:d]) if start + a < n else None
            for a, b, c, d in shares
        ]
        waiting.append((start, reads))
        if len(waiting) > prefetch:
            yield place(*waiting.popleft())
    while waiting:
        yield place(*waiting.popleft())
