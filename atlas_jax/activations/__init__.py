"""Recorded activations: batching, pooling, capture, and the store on disk."""

from atlas_jax.activations.capture import capture
from atlas_jax.activations.pool import POOLS
from atlas_jax.activations.store import ActivationStore, SiteArray

__all__ = ["POOLS", "ActivationStore", "SiteArray", "capture"]
