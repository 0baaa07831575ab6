"""Name tables: for each parameter of the decoder, the tensor of the checkpoint that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A parameter that lies in a fused tensor: some of its outputs.

    Output i of the parameter is output `start + (i // block) * stride + i % block` of the tensor.

    Attributes:
        name: of the tensor.
        outputs: of the whole tensor.
        start: the first output that belongs to the parameter.
        block: outputs that lie beside each other; default: all.
        stride: from one block to the next.
    """

    name: str
    outputs: int
    start: int
    block: int = 0
    stride: int = 0

    def spans(self, low: int, high: int) -> Iterator[tuple[slice, slice]]:
        """For outputs low to high of the parameter: where they lie in the tensor, where they go."""
        while low < high:
            row, inside = divmod(low, self.block) if self.block else (0, low)
            n = min(high - low, self.block - inside) if self.block else high - low
            first = self.start + row * self.stride + inside
            yield slice(first, first + n), slice(low, low + n)
            low += n


Entry = str | Part
Names = Mapping[str, Entry]
"""Decoder parameter -> where it lies; `{}` in a tensor's name stands for the layer."""


def tensor_name(entry: Entry) -> str:
    """The name of the tensor, `{}` for the layer."""
    return entry if isinstance(entry, str) else entry.name


def with_biases(names: Names, *parameters: str) -> dict[str, Entry]:
    """Adds the biases of some projections, which lie beside their kernels."""
    return {
        **names,
        **{
            f"{p}.bias": tensor_name(names[f"{p}.kernel"]).replace(".weight", ".bias")
            for p in parameters
        },
    }
