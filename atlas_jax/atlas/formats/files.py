"""What the files of an autoencoder hold: a configuration and float32 tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from atlas_jax.errors import InputError
from atlas_jax.files import check_tensors
from atlas_jax.outside import read_json, read_npz, refusing

Tensors = dict[str, np.ndarray]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: no such file, or something else in it.
    """
    if not path.is_file():
        raise InputError(f"Expected {path.name} in {path.parent}, it is missing.")
    return read_json(path)


def read_tensors(path: Path) -> Tensors:
    """Every floating-point tensor of a `.safetensors`, `.npz` or torch file, as float32.

    Raises:
        InputError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise InputError(f"Expected {path.name} in {path.parent}, it is missing.")
    remedy = "Delete it and download it again"
    with refusing(f"{path.suffix[1:]} in {path}", remedy):
        if path.suffix == ".npz":
            return _float32(read_npz(path))
        if path.suffix == ".safetensors":
            # numpy has no bfloat16 of its own; ml_dtypes, which comes with jax, gives it one.
            with safe_open(path, "np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                check_tensors(file.metadata() or {}, tensors)
            return _float32(tensors)
        from atlas_jax.models.torch_file import TorchFile

        file = TorchFile(path)
        return _float32({name: t.detach().float().numpy() for name, t in file.tensors.items()})


def _float32(tensors: Tensors) -> Tensors:
    strange = sorted(name for name, value in tensors.items() if value.dtype.kind in "OSUMmc")
    if strange:
        raise ValueError(f"{', '.join(strange[:4])} holds no real numbers")
    return {name: np.asarray(value).astype(np.float32) for name, value in tensors.items()}


def whole(load: Callable[..., Any]) -> Callable[..., Any]:
    """A loader whose configuration may hold anything: what is not understood is one line."""

    @wraps(load)
    def guarded(folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> Any:
        with refusing(f"the autoencoder in {folder}", "Is its configuration whole?"):
            return load(folder, extra)

    return guarded


def take(
    tensors: Tensors, path: Path, wanted: Collection[str], known: Collection[str] = ()
) -> None:
    """Checks that a file has the wanted tensors, and others only if they are known to be harmless.

    Raises:
        InputError: naming what is missing, or what is not understood.
    """
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise InputError(
            f"Expected the tensors {', '.join(wanted)} in {path.name}, "
            f"{', '.join(missing)} missing."
        )
    extra = sorted(set(tensors) - set(wanted) - set(known))
    if extra:
        raise InputError(
            f"Expected only the tensors {', '.join(wanted)} in {path.name}, got also "
            f"{', '.join(extra[:4])}: is it another architecture?"
        )
