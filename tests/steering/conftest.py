"""Settings of the tests of steering."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
