"""What the files of an autoencoder hold: a configuration and float32 tensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from atlas_jax.errors import InputError
from atlas_jax.files import check_tensors

Tensors = dict[str, np.ndarray]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: no such file, or something else in it.
    """
    if not path.is_file():
        raise InputError(f"Expected {path.name} in {path.parent}, it is missing.")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Expected JSON in {path}: {error}.") from None
    if not isinstance(config, dict):
        raise InputError(f"Expected a JSON object in {path}, got {type(config).__name__}.")
    return config


def read_tensors(path: Path) -> Tensors:
    """Every floating-point tensor of a `.safetensors`, `.npz` or torch file, as float32.

    Raises:
        InputError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise InputError(f"Expected {path.name} in {path.parent}, it is missing.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _float32({name: file[name] for name in file.files})
        if path.suffix == ".safetensors":
            # numpy has no bfloat16 of its own; ml_dtypes, which comes with jax, gives it one.
            with safe_open(path, "np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                check_tensors(file.metadata() or {}, tensors)
            return _float32(tensors)
    except (SafetensorError, zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"Expected {path.suffix[1:]} in {path}: {reason}. Delete it and download it again."
        ) from None
    from atlas_jax.models.torch_file import TorchFile

    file = TorchFile(path)
    return _float32({name: np.asarray(t.float().numpy()) for name, t in file.tensors.items()})


def _float32(tensors: Tensors) -> Tensors:
    return {name: np.asarray(value).astype(np.float32) for name, value in tensors.items()}


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
