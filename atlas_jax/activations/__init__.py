"""Recorded activations: batching, pooling, capture, and the store on disk."""

from atlas_jax.activations.capture import capture
from atlas_jax.activations.device_batches import device_batches
from atlas_jax.activations.merged_array import MergedArray
from atlas_jax.activations.pool import POOLS
from atlas_jax.activations.report import CaptureReport
from atlas_jax.activations.site_array import SiteArray
from atlas_jax.activations.store import ActivationStore
from atlas_jax.activations.token_array import TokenArray
from atlas_jax.activations.top_samples import TopSamples

__all__ = [
    "POOLS",
    "ActivationStore",
    "CaptureReport",
    "MergedArray",
    "SiteArray",
    "TokenArray",
    "TopSamples",
    "capture",
    "device_batches",
]
