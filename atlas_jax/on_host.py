"""Arrays between the host and the devices of a mesh, also of several processes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Int, Shaped

_BLOCK_BYTES = 64 * 2**20


def on_devices(x: Shaped[np.ndarray, "..."], sharding: Sharding) -> Array:
    """An array that every process has, laid out; nothing is sent between processes."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def on_host(x: Array, block_bytes: int = _BLOCK_BYTES) -> Shaped[np.ndarray, "..."]:
    """The whole array in the memory of every process; no device ever holds it whole.

    Where a process's own devices hold all of it, it is copied from them. Else every device is sent
    a block at a time, cut along an axis that is not split; then all processes must call this.

    Args:
        x: laid out over a mesh.
        block_bytes: that a device is sent at a time.
    """
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    if not isinstance(x.sharding, NamedSharding):
        raise TypeError(f"Expected an array on a mesh, got {x.sharding}.")
    out = np.empty(x.shape, x.dtype)
    if _everywhere(x):
        for shard in x.addressable_shards:
            out[shard.index] = np.asarray(shard.data)
        return out
    spec = (*x.sharding.spec, *[None] * (x.ndim - len(x.sharding.spec)))
    free = [axis for axis in range(x.ndim) if spec[axis] is None]
    axis = max(free, key=lambda axis: x.shape[axis]) if free else None
    if axis is None:
        return np.asarray(_cut(x, jnp.int32(0), axis=0, size=x.shape[0], split=x.sharding))
    line = max(1, x.nbytes // x.shape[axis])
    size = min(max(1, block_bytes // line), x.shape[axis])
    for start in range(0, x.shape[axis], size):
        start = min(start, x.shape[axis] - size)
        place = (slice(None),) * axis + (slice(start, start + size),)
        out[place] = np.asarray(_cut(x, jnp.int32(start), axis=axis, size=size, split=x.sharding))
    return out


def _everywhere(x: Array) -> bool:
    """Whether each process's devices hold all of an array: the same answer on every process."""
    held: dict[int, set[str]] = {}
    for device, index in x.sharding.devices_indices_map(x.shape).items():
        held.setdefault(device.process_index, set()).add(str(index))
    return len({frozenset(parts) for parts in held.values()}) == 1


@partial(jax.jit, static_argnames=("axis", "size", "split"))
def _cut(x: Array, start: Int[Array, ""], *, axis: int, size: int, split: NamedSharding) -> Array:
    part = lax.dynamic_slice_in_dim(x, start, size, axis)
    part = lax.with_sharding_constraint(part, split)  # or XLA sends all before it cuts
    return lax.with_sharding_constraint(part, NamedSharding(split.mesh, PartitionSpec()))
