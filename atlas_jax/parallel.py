"""The one place that builds a mesh."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from atlas_jax.errors import InputError


def make_mesh(data: int | None = None, model: int = 1) -> Mesh:
    """A mesh with the axes `data` (rows) and `model` (wide dimensions).

    Args:
        data: devices on the first axis; default: all that `model` leaves.
        model: devices on the second axis.

    Raises:
        InputError: the product is not the number of devices.
    """
    devices = jax.devices()
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
