"""A trained verbalizer as a folder that `load_verbalizer` opens, as it opens released ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from atlas_jax.errors import InputError
from atlas_jax.files import write_json, write_tensors, write_text
from atlas_jax.models.arch import Arch
from atlas_jax.models.families import FAMILIES
from atlas_jax.models.names import Part, tensor_name
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.models.weights import tensor_shapes
from atlas_jax.verbalize.sidecar import SIDECAR


def save_checkpoint(folder: Path, arch: Arch, state: Any) -> None:
    """Writes a decoder's parameters under the names that its family gives them, in float16.

    Raises:
        InputError: a weight that float16 cannot hold.
    """
    tensors = {name: np.zeros(shape, np.float16) for name, shape in tensor_shapes(arch).items()}
    table = FAMILIES[arch.family].names(arch)
    for path, leaf in nnx.to_flat_state(state):
        key = ".".join(map(str, path))
        value = np.asarray(leaf[...], np.float32)
        if not (np.abs(value) <= np.finfo(np.float16).max).all():
            raise InputError(f"Expected weights that float16 holds, {key} does not fit.")
        layers = value if key.startswith("blocks.") else value[None]
        for layer, part in enumerate(layers):
            _put(tensors[tensor_name(table[key]).format(layer)], part, key, table[key], arch)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})


def _put(tensor: np.ndarray, value: Float[np.ndarray, "..."], key: str, entry: Any, arch: Arch):
    """One layer's parameter, in its place in a tensor."""
    turned = key.endswith(".kernel") and FAMILIES[arch.family].transposed
    target = tensor.T if turned else tensor
    if not isinstance(entry, Part):
        target[...] = value
        return
    for there, here in entry.spans(0, value.shape[-1]):
        target[..., there] = value[..., here]


def save_description(
    folder: Path, base: Path, tokenizer: Tokenizer, sidecar: Mapping[str, Any]
) -> None:
    """Writes config.json, the tokenizer and the sidecar."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", (base / "config.json").read_text("utf-8"))
    tokenizer.inner.save_pretrained(folder)
    ends = [i for i in (tokenizer.eos_id,) if i is not None]
    write_json(folder / "generation_config.json", {"eos_token_id": ends})
    text = yaml.safe_dump(dict(sidecar), sort_keys=False, allow_unicode=True)
    write_text(folder / SIDECAR, text)
