"""A GGUF file's tensors under the names and in the layout of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.gguf.header import Header
from atlas_jax.models.gguf.layouts import Layout
from atlas_jax.models.weights import tensor_shapes
from atlas_jax.outside import refusing
from atlas_jax.progress import track

_SHARD_BYTES = 1 << 30
# What `rope` has read.
_ROPE = {"rope_freqs.weight"}


def hf_tensors(header: Header, arch: Arch) -> dict[str, Any]:
    """The file's tensors by their names in a checkpoint, in the order of the file.

    Raises:
        InputError: a tensor is missing, unknown, misshaped or of a type that the gguf package
            cannot dequantise.
    """
    shapes = tensor_shapes(arch)
    names = _gguf_names(header, arch, shapes)
    missing = [name for name in names if name not in header.tensors]
    unknown = [name for name in header.tensors if name not in names and name not in _ROPE]
    for what, found in (("lacks", missing), ("has unknown", unknown)):
        if found:
            more = ", ..." if len(found) > 3 else ""
            raise InputError(
                f"The GGUF file {header.path} {what} tensors of a {header.architecture} model "
                f"({', '.join(found[:3])}{more}). Use another file."
            )
    tensors = {names[n]: tensor for n, tensor in header.tensors.items() if n in names}
    for name, tensor in tensors.items():
        # In any order: the kernels of GPT-2 lie the other way round.
        if sorted(tensor.shape.tolist()) != sorted(shapes[name]):
            raise InputError(
                f"Expected {tensor.name} of shape {shapes[name]} by the header, {header.path} has "
                f"{header.shape(tensor.name)}. Download it again."
            )
        if not _readable(tensor.tensor_type):
            raise InputError(
                f"{tensor.name} in {header.path} is of type {tensor.tensor_type.name}, which the "
                "gguf package cannot dequantise. Use a file of another quantisation."
            )
    return tensors


def _gguf_names(header: Header, arch: Arch, names: Iterable[str]) -> dict[str, str]:
    """GGUF name -> name in a checkpoint."""
    import gguf

    kinds = {text: kind for kind, text in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[header.architecture], arch.n_layers)
    found: dict[str, str] = {}
    for name in names:
        own = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise InputError(
                f"The gguf package has no name for {name} of a {header.architecture} model. "
                "Upgrade it."
            )
        found[own] = name
    return found


@cache
def _readable(kind: Any) -> bool:
    """Whether the gguf package dequantises a type, tried on one block."""
    import gguf

    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:  # the gguf package's answer for a type that it only names
        return False
    return True


def disk_bytes(tensors: dict[str, Any], layout: Layout) -> int:
    """What the weights will take on the disk."""
    return sum(int(t.n_elements) * (2 if _kept(t, layout) else 4) for t in tensors.values())


def _kept(tensor: Any, layout: Layout) -> type | None:
    """The type of 16 bits in which a tensor may stay."""
    halves = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}
    return None if layout.computes else halves.get(tensor.tensor_type.name)


def write_tensors(tensors: dict[str, Any], layout: Layout, arch: Arch, draft: Path) -> None:
    """Dequantises tensor by tensor and writes a shard whenever one is full.

    The folder is a draft: what is written into it counts once it has its name.
    """
    import gguf

    shard: dict[str, np.ndarray] = {}
    weight_map: dict[str, str] = {}

    def flush() -> None:
        file = f"model-{len(set(weight_map.values())):05d}.safetensors"
        save_file(shard, draft / file, {"format": "pt"})  # transformers asks for it
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, tensor in track(list(tensors.items()), "dequantising"):
        with refusing(f"the tensor {tensor.name} of a GGUF file", "Download it again"):
            if half := _kept(tensor, layout):
                values = tensor.data.view(half)
            else:
                values = gguf.dequantize(tensor.data, tensor.tensor_type)
            if layout.undo:
                values = layout.undo(name, values, arch)
        if shard and sum(a.nbytes for a in shard.values()) + values.nbytes > _SHARD_BYTES:
            flush()
        shard[name] = np.ascontiguousarray(values)
    flush()
    index = {"metadata": {}, "weight_map": weight_map}
    (draft / "model.safetensors.index.json").write_text(json.dumps(index))
