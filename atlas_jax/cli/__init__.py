"""The command line."""

from atlas_jax.cli.app import main

__all__ = ["main"]
