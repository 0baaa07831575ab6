"""Language models: one decoder for every family, its weights, its sites, its generation."""

from atlas_jax.models.arch import Arch
from atlas_jax.models.families import FAMILIES, read_arch
from atlas_jax.models.generate import generate
from atlas_jax.models.language_model import LanguageModel, load_model
from atlas_jax.models.sites import POINTS, Edit, Site, parse_site, points_of, site_width

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
    "points_of",
    "read_arch",
    "site_width",
]
