"""Pallas kernels, each with its plain jnp reference beside it, imported as `atlas_jax.kernels`.

A kernel is kept only with a benchmark in `benchmarks/` that justifies it; so far none is.
"""
