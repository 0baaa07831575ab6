"""Translations between a subject and an atlas: moments, methods, results."""

from atlas_jax.translate.accumulate import Plan
from atlas_jax.translate.compare import Comparison, compare
from atlas_jax.translate.fit import fit, fit_inputs, fit_moments
from atlas_jax.translate.methods import METHODS, Options
from atlas_jax.translate.moments_file import MomentsFolder, merge_moments
from atlas_jax.translate.polar import Polar, polar
from atlas_jax.translate.translation import Translation

__all__ = [
    "METHODS",
    "Comparison",
    "MomentsFolder",
    "Options",
    "Plan",
    "Polar",
    "Translation",
    "compare",
    "fit",
    "fit_inputs",
    "fit_moments",
    "merge_moments",
    "polar",
]
