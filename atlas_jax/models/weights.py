"""Weights: a checkpoint's tensors, put into a decoder by the name table of its family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.checkpoint import Checkpoint, Index
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.families import FAMILIES
from atlas_jax.models.names import Entry, Part, tensor_name
from atlas_jax.models.placement import place, placement
from atlas_jax.progress import track


def load_decoder(
    checkpoint: Checkpoint, arch: Arch, dtype: str = "float32", mesh: Mesh | None = None
) -> Decoder:
    """Fills a decoder from a checkpoint.

    Each device gets its own slices of the files; the host holds one stacked parameter's shard at a
    time, and never the model.

    Args:
        checkpoint: the folder's tensors.
        arch: its shape.
        dtype: of the parameters, `float32` or `bfloat16`.
        mesh: where to place the parameters, split over its `model` axis if it has one; default:
            the default device.

    Raises:
        InputError: missing, extra or misshaped tensors, naming the first few; or one that is not
            finite.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(arch, jax.numpy.dtype(dtype))))
    table = FAMILIES[arch.family].names(arch)
    actual = _check(checkpoint, arch)
    filled = []
    for path, leaf in track(list(nnx.to_flat_state(state)), "loading weights"):
        key = ".".join(map(str, path))
        reader = _Reader(checkpoint, actual, key, table[key], arch, dtype)
        sharding = placement(key, arch, mesh) if mesh is not None else None
        filled.append((path, leaf.replace(place(reader, leaf.shape, sharding))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


class _Reader:
    """Reads slices of one parameter, which may lie in a tensor for each layer."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        actual: dict[str, str],
        key: str,
        entry: Entry,
        arch: Arch,
        dtype: str,
    ) -> None:
        self.checkpoint, self.actual, self.entry = checkpoint, actual, entry
        self.stacked = key.startswith("blocks.")
        self.transposed = key.endswith(".kernel") and FAMILIES[arch.family].transposed
        self.dtype = jax.numpy.dtype(dtype)

    def __call__(self, index: Index) -> np.ndarray:
        host = np.empty([s.stop - s.start for s in index], self.dtype)
        if not self.stacked:
            self._read(tensor_name(self.entry), index, host)
            return host
        for target, layer in zip(host, range(index[0].start, index[0].stop), strict=True):
            self._read(tensor_name(self.entry).format(layer), index[1:], target)
        return host

    def _read(self, name: str, index: Index, target: np.ndarray) -> None:
        whole, name = target, self.actual[name]
        if isinstance(self.entry, Part):
            outputs = index[-1]
            spans = self.entry.spans(outputs.start, outputs.stop)
            pieces = [
                ((*index[:-1], source), target[..., _shift(goal, outputs.start)])
                for source, goal in spans
            ]
        else:
            pieces = [(index, target)]
        for where, piece in pieces:
            if self.transposed:
                where, piece = where[::-1], piece.T
            self.checkpoint.copy(name, where, piece)
        # One pass and no temporary; weights never sum to the end of float32.
        if not np.isfinite(np.sum(whole, dtype=np.float32)):
            raise InputError(
                f"Expected finite weights, {name} in {self.checkpoint.folder} holds NaN or "
                f"infinity as {self.dtype.name}. Download the checkpoint again."
            )


def _shift(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def tensor_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this architecture holds."""
    return {name: shape for name, shape, _ in _tensors(arch)}


def _tensors(arch: Arch) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and decoder parameter of each tensor; fused ones come once for each parameter."""
    family = FAMILIES[arch.family]
    table = family.names(arch)
    state: Any = nnx.split(nnx.eval_shape(lambda: Decoder(arch)))[1]
    for path, leaf in nnx.to_flat_state(state):
        key = ".".join(map(str, path))
        entry, stacked = table[key], key.startswith("blocks.")
        shape = tuple(leaf.shape[1:] if stacked else leaf.shape)
        if isinstance(entry, Part):
            shape = (*shape[:-1], entry.outputs)
        if key.endswith(".kernel") and family.transposed:
            shape = shape[::-1]
        for layer in range(arch.n_layers if stacked else 1):
            yield tensor_name(entry).format(layer), shape, key


def _check(checkpoint: Checkpoint, arch: Arch) -> dict[str, str]:
    """Compares names and shapes; gives the checkpoint's own name of each tensor of the table."""
    family = FAMILIES[arch.family]
    wanted = tensor_shapes(arch)
    named = {family.table_name(name): name for name in checkpoint.shapes}
    actual = {name: own for name, own in named.items() if name is not None}
    head = tensor_name(family.names(arch)["head.kernel"])
    missing = sorted(set(wanted) - set(actual))
    extra = sorted(actual[n] for n in set(actual) - set(wanted) if not (arch.tied and n == head))
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise InputError(
            f"The tensors in {checkpoint.folder} are not those of a {arch.family} model with "
            f"{arch.n_layers} layers: {'; '.join(parts)}."
        )
    for name, shape in wanted.items():
        if checkpoint.shapes[actual[name]] != shape:
            raise InputError(
                f"Expected {actual[name]} of shape {shape} by the config, the checkpoint has "
                f"{checkpoint.shapes[actual[name]]}. Do config.json and weights belong together?"
            )
    return actual
