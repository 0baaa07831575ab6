"""The loop of a capture: the device computes, the host copies, a thread writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from atlas_jax.activations.batches import Batch
from atlas_jax.activations.parts import Part
from atlas_jax.activations.recording import Recording
from atlas_jax.activations.report import CaptureReport
from atlas_jax.activations.tokens import Tokens
from atlas_jax.on_host import on_devices
from atlas_jax.progress import Bar

_IN_FLIGHT = 2


class Sink(Protocol):
    """Where parts go (`StoreWriter`)."""

    done: set[int]
    waited: float
    busy: float
    bytes: int

    def write(self, part: int, start: int, arrays: Mapping[str, np.ndarray]) -> None: ...

    def check(self) -> None: ...

    def finish(self) -> None: ...


@dataclass
class _Filling:
    """A part that is being computed.

    Attributes:
        part: which.
        arrays: its rows so far.
        left: texts still to come.
    """

    part: Part
    arrays: dict[str, np.ndarray]
    left: int


def record(
    recording: Recording,
    tokens: Tokens,
    parts: Sequence[Part],
    own: Collection[int],
    batch_tokens: int,
    sink: Sink,
    label: str,
) -> CaptureReport:
    """Computes those parts that the sink does not have yet, and hands each over when it is whole.

    Two batches are under way at any time, also across the border of two parts, so that the device
    works while results are copied; writing is up to the sink.

    Args:
        recording: what is recorded.
        tokens: of the corpus.
        parts: that this process reads.
        own: those of them that it writes: all, unless processes read together.
        batch_tokens: positions of a batch.
        sink: takes the parts.
        label: of the progress bar.
    """
    mesh, pad_id = recording.source.mesh, recording.source.tokenizer.pad_id
    split = None if mesh is None else NamedSharding(mesh, PartitionSpec("data"))
    devices = 1 if mesh is None else mesh.shape["data"]
    flight: deque[tuple[_Filling, Batch, dict[str, Array]]] = deque()
    shapes: set[tuple[int, int]] = set()
    texts = read = positions = 0

    def tokens_of(part: Part) -> int:
        return int(tokens.offsets[part.last] - tokens.offsets[part.first])

    # Tokens, not texts: the long texts of a part come first, and take their time.
    with Bar(f"{label}: tokens", sum(map(tokens_of, parts))) as bar:

        def land() -> None:
            filling, batch, acts = flight.popleft()
            for name, values in recording.take(acts).items():
                filling.part.put(filling.arrays[name], batch, values)
            filling.left -= len(batch.rows)
            here = filling.part.first + batch.rows
            bar.advance(int((tokens.offsets[here + 1] - tokens.offsets[here]).sum()))
            if filling.left or filling.part.index not in own:
                sink.check()
            else:
                sink.write(filling.part.index, filling.part.start, filling.arrays)

        begun = time.perf_counter()
        # At once: the time left is judged by every step but the first.
        bar.advance(sum(tokens_of(part) for part in parts if part.index in sink.done))
        for part in parts:
            if part.index in sink.done:
                continue
            rows = recording.buffers(part.stop - part.start)
            filling = _Filling(part, rows, part.last - part.first)
            for batch in part.plan(tokens, batch_tokens):
                inputs: Any = tokens.batch(batch, part.first, devices, pad_id)
                new = inputs[0].shape not in shapes
                shapes.add(inputs[0].shape)
                positions += inputs[0].size if part.index in own else 0
                if split is not None:
                    inputs = [on_devices(values, split) for values in inputs]
                with bar.apart() if new else nullcontext():  # it may have to be compiled
                    flight.append((filling, batch, recording.read(*inputs)))
                if len(flight) > _IN_FLIGHT:
                    land()
            if part.index in own:
                texts += part.last - part.first
                read += tokens_of(part)
        while flight:
            land()
        sink.finish()
    seconds = time.perf_counter() - begun
    return CaptureReport(
        texts=texts,
        tokens=read,
        positions=positions,
        shapes=len(shapes),
        seconds=seconds,
        forward_waited=sink.waited,
        store_waited=max(seconds - sink.busy, 0.0),
        written=sink.bytes,
    )
