"""Pallas kernels, each with its plain jnp reference beside it, imported as `atlas_jax.kernels`.

None has been measured on a GPU or a TPU yet, so none is chosen by itself: see `choice`.
"""

from atlas_jax.kernels.choice import chosen
from atlas_jax.kernels.encode_max import encode_max
from atlas_jax.kernels.gram import gram
from atlas_jax.kernels.top_rows import top_rows

__all__ = ["chosen", "encode_max", "gram", "top_rows"]
