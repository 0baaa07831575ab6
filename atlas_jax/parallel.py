"""The one place that builds a mesh and starts several processes."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from atlas_jax.errors import InputError


def make_mesh(data: int | None = None, model: int = 1, local: bool = False) -> Mesh:
    """A mesh with the axes `data` (rows) and `model` (wide dimensions).

    Args:
        data: devices on the first axis; default: all that `model` leaves.
        model: devices on the second axis.
        local: of this process's devices only, where there are several processes.

    Raises:
        InputError: the product is not the number of devices.
    """
    devices = jax.local_devices() if local else jax.devices()
    if data is None:
        data = max(1, len(devices) // model)
    if data * model != len(devices):
        raise InputError(
            f"Expected data * model to be the number of devices, {len(devices)}, got {data} * "
            f"{model}."
        )
    # Auto axes: a product whose contracted rows are sharded becomes a sum over devices.
    return Mesh(
        np.array(devices).reshape(data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def start_processes(coordinator: str, processes: int, process: int) -> None:
    """Joins several processes into one JAX program; before JAX is first used.

    Args:
        coordinator: host and port of process 0.
        processes: how many there are.
        process: the number of this one.

    Raises:
        InputError: numbers that do not fit, or a coordinator that does not answer.
    """
    if not 0 <= process < processes:
        raise InputError(f"Expected a process from 0 to {processes - 1}, got {process}.")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"Could not join process {process} of {processes} at {coordinator}: "
            f"{str(error).splitlines()[0]}"
        ) from None


def barrier(name: str) -> None:
    """Waits until every process has come here; alone, not at all."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
