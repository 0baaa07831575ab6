"""Named models, embedders and texts: fetched once, verified, kept in one cache folder."""

from atlas_jax.assets.cache import cache_folder, fetch
from atlas_jax.assets.catalogue import ASSETS, Asset

__all__ = ["ASSETS", "Asset", "cache_folder", "fetch"]
