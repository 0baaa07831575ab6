"""Training a verbalizer of one's own, for a model that none was released for."""

from atlas_jax.verbalize.training.examples import Drawing
from atlas_jax.verbalize.training.plan import TrainingPlan
from atlas_jax.verbalize.training.train import train_verbalizer
from atlas_jax.verbalize.training.words import WordTable

__all__ = ["Drawing", "TrainingPlan", "WordTable", "train_verbalizer"]
