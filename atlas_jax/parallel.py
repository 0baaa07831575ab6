"""The one place that builds a mesh and starts several processes.

Processes are started by what starts them anyway: srun, mpirun, an indexed Job, the shell. Nothing
here schedules, restarts or watches them; JAX's own service does the watching.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from atlas_jax.errors import InputError

LAUNCHERS = {
    "JAX_NUM_PROCESSES": "JAX_PROCESS_ID",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
}
"""Where a launcher says how many processes there are, and which one this is."""

_JOINS_WITHIN = 300
_LOST_AFTER = 30
_AS_LONG_AS_IT_TAKES = int(timedelta(days=30).total_seconds() * 1000)
_calls: Counter[str] = Counter()

one_at_a_time = threading.RLock()
"""Held while a thread hands devices a program, where another thread has programs for them too: all
devices then get both in one order, and none waits for another that waits for it."""


class LostProcess(RuntimeError):
    """Another process of this run has ended; what is on the disk is kept."""


def make_mesh(
    data: int | None = None,
    model: int = 1,
    local: bool = False,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh with the axes `data` (rows) and `model` (wide dimensions).

    Args:
        data: devices on the first axis; default: all that `model` leaves.
        model: devices on the second axis.
        local: of this process's devices only, where there are several processes.
        devices: of these only; two models may lie on groups of devices that share none.

    Raises:
        InputError: the product is not the number of devices.
    """
    if devices is None:
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


def processes_of(mesh: Mesh | None) -> set[int]:
    """The processes whose devices a mesh has; None: this one."""
    if mesh is None:
        return {jax.process_index()}
    return {device.process_index for device in mesh.devices.flat}


def overlap(one: Mesh | None, other: Mesh | None) -> bool:
    """Whether two meshes have devices in common; None: the default device."""
    mine, theirs = (
        set(mesh.devices.flat) if mesh is not None else {jax.local_devices()[0]}
        for mesh in (one, other)
    )
    return bool(mine & theirs)


def models_mesh(split: int = 1) -> Mesh | None:
    """Where a process has its models: on its own devices; None: on one.

    Args:
        split: devices that share the weights; the others share batches. A CPU is one device. More
            than a process has: the model lies over the devices of all processes.
    """
    if split > len(jax.local_devices()) and jax.process_count() > 1:
        return make_mesh(model=split)
    several = len(jax.local_devices()) > 1 and jax.default_backend() != "cpu"
    return make_mesh(model=split, local=True) if several or split > 1 else None


def sums_mesh() -> Mesh | None:
    """Where the sums of a fit lie: on all devices of all processes; None: on one, or on the host.

    Wide matrices are spread over the devices of a process, rows over the processes.
    """
    several = jax.device_count() > 1 and jax.default_backend() != "cpu"
    if several or jax.process_count() > 1:
        return make_mesh(model=len(jax.local_devices()))
    return None


def find_processes(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """How many processes a launcher started and which one this is; None: it started one alone.

    Raises:
        InputError: one number without the other, or numbers that do not fit.
    """
    for many, which in LAUNCHERS.items():
        size, number = environment.get(many), environment.get(which)
        if size in (None, "1"):
            continue
        if not size.isdigit() or not (number or "").isdigit():
            raise InputError(
                f"Expected whole numbers in {many} and {which}, got '{size}' and '{number or ''}'."
            )
        return int(size), int(number or 0)
    return None


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins several processes into one JAX program; before JAX is first used. Alone, does nothing.

    Without arguments the launcher's environment is read: that of srun, Open MPI or MPICH, or
    JAX_NUM_PROCESSES and JAX_PROCESS_ID; JAX finds the coordinator by itself under srun and Open
    MPI 4, elsewhere JAX_COORDINATOR_ADDRESS names it. ATLAS_JAX_DISTRIBUTED=1 has JAX find out
    everything (Cloud TPU), =0 keeps a process alone. A process counts as lost when nothing was
    heard of it for ATLAS_JAX_LOST_AFTER seconds (30).

    Args:
        coordinator: host and port of process 0.
        processes: how many there are.
        process: the number of this one.

    Raises:
        InputError: numbers that do not fit, or a coordinator that does not answer.
    """
    wanted = os.environ.get("ATLAS_JAX_DISTRIBUTED", "")
    if processes is None and wanted != "0":
        found = find_processes(os.environ)
        if found is not None:
            processes, process = found
    if processes is None and wanted != "1":
        return
    if processes is not None and (process is None or not 0 <= process < processes):
        raise InputError(f"Expected a process from 0 to {processes - 1}, got {process}.")
    if processes == 1 or jax.distributed.is_initialized():
        return
    lost = _seconds("ATLAS_JAX_LOST_AFTER", _LOST_AFTER)
    who = "this process" if process is None else f"process {process} of {processes}"
    at = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if at is not None and not at.rpartition(":")[2].isdigit():
        raise InputError(f"Expected JAX_COORDINATOR_ADDRESS as host:port of process 0, got '{at}'.")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_seconds("ATLAS_JAX_JOINS_WITHIN", _JOINS_WITHIN),
            heartbeat_timeout_seconds=lost,
            shutdown_timeout_seconds=lost,
        )
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f" at {at}" if at else ""
        hint = "" if at else " Set JAX_COORDINATOR_ADDRESS to host:port of process 0."
        raise InputError(f"Could not join {who}{where}: {reason}{hint}") from None


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"Expected {variable} as a number of seconds, got '{text}'.")
    return int(text)


def leads() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come here; alone, not at all.

    It waits as long as it takes, and no device waits with it.

    Raises:
        LostProcess: another process has ended.
    """
    if jax.process_count() > 1:
        _service(lambda client: client.wait_at_barrier(_key(name), _AS_LONG_AS_IT_TAKES))


def agree(name: str, value: str) -> str:
    """What process 0 says, on every process; alone, the value itself.

    Raises:
        LostProcess: another process has ended.
    """
    if jax.process_count() == 1:
        return value
    key = _key(name)
    if leads():
        _service(lambda client: client.key_value_set(key, value))
        return value
    return _service(lambda client: client.blocking_key_value_get(key, _AS_LONG_AS_IT_TAKES))


def explained(error: Exception) -> str | None:
    """One line for a failure that another process's end has caused; None: it has another cause."""
    if isinstance(error, LostProcess):
        return str(error)
    text = str(error)
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "heartbeat", "Connection closed by peer")
    if jax.distributed.is_initialized() and any(sign in text for sign in signs):
        return _lost(text)
    return None


def _key(name: str) -> str:
    """Of this call: all processes make the same calls in the same order."""
    _calls[name] += 1
    return f"atlas_jax/{name}/{_calls[name]}"


def _service(ask: Any) -> Any:
    """Asks the service through which JAX's processes know of each other; it needs no device."""
    from jax._src import distributed

    try:
        return ask(distributed.global_state.client)
    except RuntimeError as error:
        raise LostProcess(_lost(str(error))) from None


def _lost(reason: str) -> str:
    return (
        f"another process of this run has ended ({reason.splitlines()[0][:160]}). What is on the "
        "disk is kept: start all processes again to go on, as many as you like."
    )
