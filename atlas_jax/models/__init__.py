"""Language models: one decoder for every family, its weights, its sites, its generation."""

from atlas_jax.models.arch import FAMILIES, Arch, read_arch
from atlas_jax.models.generate import generate
from atlas_jax.models.language_model import LanguageModel, load_model
from atlas_jax.models.sites import POINTS, Edit, Site, parse_site, site_width

__all__ = [
    "FAMILIES",
    "POINTS",
    "Arch",
    "Edit",
    "LanguageModel",
    "Site",
    "generate",
    "load_model",
    "parse_site",
    "read_arch",
    "site_width",
]
