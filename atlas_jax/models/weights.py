"""Weights: a checkpoint folder's tensors, put into a decoder by one name table for each family."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (gives numpy the bfloat16 that safetensors returns)
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.decoder import Decoder
from atlas_jax.progress import track

_SHARED = {
    "embed": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.kernel": "lm_head.weight",
    "blocks.attn.q.kernel": "model.layers.{}.self_attn.q_proj.weight",
    "blocks.attn.k.kernel": "model.layers.{}.self_attn.k_proj.weight",
    "blocks.attn.v.kernel": "model.layers.{}.self_attn.v_proj.weight",
    "blocks.attn.o.kernel": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.gate.kernel": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.up.kernel": "model.layers.{}.mlp.up_proj.weight",
    "blocks.down.kernel": "model.layers.{}.mlp.down_proj.weight",
    "blocks.norm_attn.weight": "model.layers.{}.input_layernorm.weight",
}

NAMES: dict[str, dict[str, str]] = {
    "llama": _SHARED
    | {"blocks.norm_mlp.weight": "model.layers.{}.post_attention_layernorm.weight"},
    "gemma3_text": _SHARED
    | {
        "blocks.attn.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
        "blocks.attn.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
        "blocks.post_attn.weight": "model.layers.{}.post_attention_layernorm.weight",
        "blocks.norm_mlp.weight": "model.layers.{}.pre_feedforward_layernorm.weight",
        "blocks.post_mlp.weight": "model.layers.{}.post_feedforward_layernorm.weight",
    },
}
"""Decoder parameter -> tensor of the checkpoint (`{}`: the layer); kernels are transposed there."""


class Checkpoint:
    """The tensors of a folder with one or many safetensors files, read one at a time.

    Raises:
        InputError: no safetensors files, or one that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.exists():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            self.files = [folder / name for name in names]
        else:
            self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise InputError(f"Expected *.safetensors files in {folder}, found none.")
        self.where: dict[str, Any] = {}
        for file in self.files:
            try:
                handle = safe_open(file, framework="np")
            except FileNotFoundError:
                raise InputError(
                    f"Expected {file.name} in {folder}, as its index says; it is missing. "
                    "Download the checkpoint again."
                ) from None
            except SafetensorError as error:
                raise InputError(
                    f"{file} is damaged ({error}). Delete it and download it again."
                ) from None
            self.where |= {name: handle for name in handle.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> np.ndarray:
        return self.where[name].get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self.where[name].get_slice(name).get_shape())

    def fingerprint(self) -> str:
        """A sha256 that names these weights: headers, sizes and 64 blocks spread over each file."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}".encode())
            with file.open("rb") as stream:
                header = stream.read(8)
                digest.update(header + stream.read(int.from_bytes(header, "little")))
                for step in range(64):
                    stream.seek(size * step // 64)
                    digest.update(stream.read(4096))
        return digest.hexdigest()


def load_decoder(
    checkpoint: Checkpoint, arch: Arch, dtype: str = "float32", mesh: Mesh | None = None
) -> Decoder:
    """Fills a decoder from a checkpoint, tensor by tensor (one stacked parameter of extra memory).

    Args:
        checkpoint: the folder's tensors.
        arch: its shape.
        dtype: of the parameters, `float32` or `bfloat16`.
        mesh: where to place the parameters (replicated); default: the default device.

    Raises:
        InputError: missing, extra or misshaped tensors, naming the first few; or one that is not
            finite.
    """
    kind = jax.numpy.dtype(dtype)
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(arch, kind)))
    table = NAMES[arch.family]
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    wanted = {name for key in flat for name in _tensor_names(table[key], arch)}
    _check(checkpoint, flat, table, arch, wanted)
    placed = NamedSharding(mesh, PartitionSpec()) if mesh is not None else None
    filled = []
    for path, leaf in track(list(nnx.to_flat_state(state)), "loading weights"):
        key = ".".join(map(str, path))
        host = np.empty(leaf.shape, kind)
        names = _tensor_names(table[key], arch)
        targets = host if "{}" in table[key] else host[None]
        for target, name in zip(targets, names, strict=True):
            tensor = checkpoint[name]
            target[...] = tensor.T if key.endswith(".kernel") else tensor
            # One pass and no temporary; weights never sum to the end of float32.
            if not np.isfinite(np.sum(target, dtype=np.float32)):
                raise InputError(
                    f"Expected finite weights, {name} in {checkpoint.folder} holds NaN or "
                    f"infinity as {dtype}. Download the checkpoint again."
                )
        filled.append((path, leaf.replace(jax.device_put(host, placed))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _tensor_names(template: str, arch: Arch) -> list[str]:
    if "{}" not in template:
        return [template]
    return [template.format(layer) for layer in range(arch.n_layers)]


def _check(
    checkpoint: Checkpoint, flat: dict, table: dict[str, str], arch: Arch, wanted: set[str]
) -> None:
    have = set(checkpoint.where)
    harmless = {name for name in have if name.endswith("rotary_emb.inv_freq")}
    if arch.tied:
        harmless.add("lm_head.weight")
    missing, extra = sorted(wanted - have), sorted(have - wanted - harmless)
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
    for key, leaf in flat.items():
        shape = leaf.shape[1:] if "{}" in table[key] else leaf.shape
        shape = shape[::-1] if key.endswith(".kernel") else shape
        for name in _tensor_names(table[key], arch):
            if checkpoint.shape(name) != tuple(shape):
                raise InputError(
                    f"Expected {name} of shape {tuple(shape)} by the config, the checkpoint has "
                    f"{checkpoint.shape(name)}. Do config.json and weights belong together?"
                )
