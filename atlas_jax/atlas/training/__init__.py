from atlas_jax.atlas.training.recipe import ARCHITECTURES, Recipe
from atlas_jax.atlas.training.train import train_atlas

__all__ = ["ARCHITECTURES", "Recipe", "train_atlas"]
