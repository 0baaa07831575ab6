"""Translations between a subject and an atlas: moments, methods, results."""

from atlas_jax.translate.fit import METHODS, Options, fit
from atlas_jax.translate.polar import Polar, polar
from atlas_jax.translate.translation import Translation

__all__ = ["METHODS", "Options", "Polar", "Translation", "fit", "polar"]
