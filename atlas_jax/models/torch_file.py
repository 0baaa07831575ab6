"""Weights in torch's own file format, for checkpoints that have no safetensors."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.outside import check_zip, refusing


class TorchFile:
    """A `.bin` or `.pth` file: a dictionary of tensors, mapped rather than read.

    Raises:
        InputError: torch is not installed, the file is missing or damaged, or it holds more than
            tensors, which might run code when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import torch
        except ImportError:
            raise InputError(
                f"{path} is in torch's format: install torch to read it (pip install torch), or "
                "use a checkpoint with safetensors."
            ) from None
        if not os.path.exists(path):
            raise InputError(
                f"Expected {path.name} in {path.parent}, as its index says; it is missing. "
                "Download the checkpoint again."
            )
        try:
            with refusing(str(path), "It is damaged: delete it and download it again"):
                loaded = _load(torch, path)
        except InputError as error:
            if not isinstance(error.__cause__, pickle.UnpicklingError):
                raise
            raise InputError(
                f"{path} holds more than tensors, and reading it could run code. Use a checkpoint "
                "with safetensors."
            ) from None
        self.torch = torch
        self.tensors: dict[str, Any] = {
            str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)
        }
        self._check(path.stat().st_size)

    def _check(self, size: int) -> None:
        """Refuses tensors that are more than the bytes of the file: a view may repeat them."""
        total = 0
        for name, tensor in self.tensors.items():
            plain = tensor.layout == self.torch.strided and tensor.device.type == "cpu"
            if not plain or tensor.is_quantized or tensor.is_complex():
                raise InputError(f"Expected plain tensors in {self.path}, {name} is none.")
            taken = tensor.numel() * tensor.element_size()
            total += taken
            if taken > size or total > 4 * size:  # tied weights are there twice
                raise InputError(
                    f"Expected tensors that fit into the {size} bytes of {self.path}, {name} has "
                    f"the shape {tuple(tensor.shape)}. Delete it and download it again."
                )

    def header(self) -> bytes:
        return repr(sorted((n, tuple(t.shape)) for n, t in self.tensors.items())).encode()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        part = self.tensors[name].detach()[index]
        if not part.is_floating_point():
            raise InputError(
                f"Expected floating-point weights, {name} in {self.path} has {part.dtype}. Use a "
                "checkpoint that is not quantised."
            )
        if part.dtype == self.torch.bfloat16:  # numpy knows it by another name
            return part.contiguous().view(self.torch.int16).numpy().view(ml_dtypes.bfloat16)
        return part.numpy()


def _load(torch: Any, path: Path) -> dict[str, Any]:
    options = {"map_location": "cpu", "weights_only": True}
    if zipfile.is_zipfile(path):
        check_zip(path)
    try:
        loaded = torch.load(path, mmap=True, **options)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        loaded = torch.load(path, **options)  # the format before torch 1.6 cannot be mapped
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a dictionary of tensors, got {type(loaded).__name__}")
    return loaded
