"""A tiny model for the whole folder; compiling is most of what its tests take."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Models are tiny, so that optimising them does not pay."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="package")
def model(tiny_llama):
    """3 layers, 32 wide, 256 positions."""
    from atlas_jax.models import load_model

    return load_model(tiny_llama)
