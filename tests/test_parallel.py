"""Meshes."""

import jax
import pytest

from atlas_jax.errors import InputError
from atlas_jax.parallel import make_mesh


def test_shapes():
    assert dict(make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(make_mesh(model=2).shape) == {"data": 4, "model": 2}
    assert make_mesh().devices.size == len(jax.devices())


def test_a_product_that_does_not_fit():
    with pytest.raises(InputError, match="number of devices, 8, got 3 . 2"):
        make_mesh(3, 2)
