"""Formats of sparse autoencoders on disk: one file each, one line here."""

from collections.abc import Callable

from atlas_jax.atlas.formats.saelens import LoadedSAE, load_saelens, save_saelens

SAE_FORMATS: dict[str, Callable[..., LoadedSAE]] = {"saelens": load_saelens}

__all__ = ["SAE_FORMATS", "LoadedSAE", "load_saelens", "save_saelens"]
