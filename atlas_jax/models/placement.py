"""Where parameters live on a mesh: wide dimensions split over its `model` axis."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from atlas_jax.models.arch import Arch

Index = tuple[slice, ...]


def placement(parameter: str, arch: Arch, mesh: Mesh) -> NamedSharding:
    """How a parameter is split.

    Tensor parallelism as in Megatron-LM (Shoeybi et al. 2019): q, k, v, gate and up by outputs, o
    and down by inputs, embedding and head by vocabulary. What does not divide into whole heads,
    neurons or words stays whole on every device, as norms and positions do.
    """
    n = mesh.shape.get("model", 1)
    # By parameter: the axis that is split, and how many units it has.
    split = {
        "embed": (0, arch.vocab_size),
        "head.kernel": (1, arch.vocab_size),
        "blocks.attn.q": (-1, arch.n_heads),
        "blocks.attn.k": (-1, arch.n_kv_heads),
        "blocks.attn.v": (-1, arch.n_kv_heads),
        "blocks.attn.o.kernel": (1, arch.n_heads),
        "blocks.gate": (-1, arch.d_mlp),
        "blocks.up": (-1, arch.d_mlp),
        "blocks.down.kernel": (1, arch.d_mlp),
    }
    part, _, kind = parameter.rpartition(".")
    axis, units = split.get(parameter, split.get(part, (0, 0)))
    if n == 1 or not units or units % n:
        return NamedSharding(mesh, PartitionSpec())
    rank = (2 if kind == "kernel" else 1) + parameter.startswith("blocks.")
    if parameter == "embed":
        rank = 2
    spec: list[str | None] = [None] * rank
    spec[axis] = "model"
    return NamedSharding(mesh, PartitionSpec(*spec))


def place(
    fill: Callable[[Index], np.ndarray],
    shape: Sequence[int],
    sharding: NamedSharding | None,
) -> jax.Array:
    """Makes an array on its devices; the host holds one shard at a time.

    Args:
        fill: gives the values of a slice of the array.
        shape: of the whole array.
        sharding: where it goes; default: the default device.
    """
    shape = tuple(shape)
    if sharding is None:
        out = jax.block_until_ready(jax.device_put(fill(tuple(slice(0, n) for n in shape))))
        gc.collect(0)
        return out
    groups: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True))
        groups.setdefault(bounds, []).append(device)
    shards: list[jax.Array] = []
    for bounds, devices in groups.items():
        host = fill(tuple(slice(*b) for b in bounds))
        shards += jax.block_until_ready([jax.device_put(host, device) for device in devices])
        # The transfer keeps the host's copy until JAX hears of a collection of garbage.
        del host
        gc.collect(0)
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)
