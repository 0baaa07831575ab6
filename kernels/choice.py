"""Whether an operation takes its kernel or plain jnp: the one place that decides.

`ATLAS_JAX_KERNELS` says which, where a program is traced: a program compiled before keeps its path.

    off     plain jnp
    on      the kernels; on a CPU interpreted, step by step, which serves tests alone
    auto    (default) a kernel where it was measured on this kind of device and gained enough:
            time jnp / time kernel >= 1.2, or memory jnp / memory kernel >= 4

Arrays that XLA splits over several devices by itself take plain jnp.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import jax

from atlas_jax.errors import InputError

VARIABLE = "ATLAS_JAX_KERNELS"
LEAST_TIME, LEAST_MEMORY = 1.2, 4.0


class Gain(NamedTuple):
    """What a kernel gained over jnp: the worst of the sizes measured.

    Attributes:
        time: median seconds of jnp, over those of the kernel.
        memory: temporary bytes of jnp, over those of the kernel.
    """

    time: float
    memory: float

    @property
    def enough(self) -> bool:
        """Whether the kernel is worth it."""
        return self.time >= LEAST_TIME or self.memory >= LEAST_MEMORY


GAINS: Mapping[str, Mapping[str, Gain]] = {}
"""{kind of device: {kernel: gain}}, as `benchmarks/gpu.py --only kernels` recorded it: none yet."""


def chosen(kernel: str) -> bool:
    """Whether `kernel` is taken on the default device.

    Raises:
        InputError: the variable says something else.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("on", "off", "auto"):
        raise InputError(f"Expected {VARIABLE} to be on, off or auto, got '{asked}'.")
    if asked == "off" or not _one_device():
        return False
    if asked == "on":
        return True
    gain = GAINS.get(jax.devices()[0].device_kind, {}).get(kernel)
    return gain is not None and gain.enough


def _one_device() -> bool:
    """Whether arrays lie on one device here: a kernel is never split over several by itself."""
    if jax.default_backend() == "cpu" or jax.device_count() == 1:  # what is interpreted is split
        return True
    return bool(jax.sharding.get_abstract_mesh().manual_axes)  # within shard_map
