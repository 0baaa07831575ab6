"""Steering: scores, directions and examples become edits of the forward pass."""

from atlas_jax.journal import Journal
from atlas_jax.steering.directions import decoder_direction, difference_of_means, random_scores
from atlas_jax.steering.edits import steer, steer_query
from atlas_jax.steering.sweep import Plan, Sampling, write_steered

__all__ = [
    "Journal",
    "Plan",
    "Sampling",
    "decoder_direction",
    "difference_of_means",
    "random_scores",
    "steer",
    "steer_query",
    "write_steered",
]
