"""Whole experiments: recipes, run folders, stages."""

from atlas_jax.pipeline.experiment import run_experiment
from atlas_jax.pipeline.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "run_experiment"]
