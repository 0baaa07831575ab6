"""Named arrays as a file that other programs read: safetensors, npz, torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import writing
from atlas_jax.translate.translation import Translation

Arrays = Mapping[str, np.ndarray]
META = "meta"
"""The name of the metadata among the arrays of `.npz` and `.pt`: a JSON text."""


def export_translation(translation: Translation, path: str | os.PathLike[str]) -> Path:
    """Writes T as the tensor `matrix`, (d_s, d_c) float32, with what it was made from.

    Args:
        translation: what to write.
        path: `.safetensors` (what `Translation.load` reads), `.npz`, or `.pt` (needs torch; loads
            with weights_only).

    Raises:
        InputError: another ending, no torch, or a place that cannot be written to.
    """
    if Path(path).suffix == ".safetensors":
        return translation.save(Path(path).expanduser())
    meta = {"method": translation.method, **translation.meta}
    return export_arrays({"matrix": translation.matrix}, path, meta)


def export_arrays(arrays: Arrays, path: str | os.PathLike[str], meta: Mapping[str, Any]) -> Path:
    """Writes arrays by name; the file takes its name only when it is whole.

    Args:
        arrays: what to write.
        path: the ending says how: a key of `FILES`.
        meta: JSON-able; texts stand in safetensors' header as they are, the rest as JSON.

    Raises:
        InputError: another ending, no torch, or a place that cannot be written to.
    """
    path = Path(path).expanduser()
    if path.suffix not in FILES:
        raise InputError(f"Expected a file ending in {', '.join(FILES)}, got '{path.name}'.")
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with writing(path) as draft:
        FILES[path.suffix](draft, whole, meta)
    return path


def _safetensors(draft: Path, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    from safetensors.numpy import save_file

    header = {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()}
    save_file(dict(arrays), draft, metadata=header)


def _npz(draft: Path, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    everything: dict[str, Any] = {**arrays, META: np.array(json.dumps(dict(meta)))}
    with draft.open("wb") as file:
        np.savez(file, **everything)


def _torch(draft: Path, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    try:
        import torch
    except ImportError:
        raise InputError(
            "A .pt file is written by torch: install it (pip install torch), or ask for "
            ".safetensors, which torch users read as well."
        ) from None
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch.save({**tensors, META: json.dumps(dict(meta))}, draft)


FILES = {".safetensors": _safetensors, ".npz": _npz, ".pt": _torch}
"""The kinds of file, by ending."""
