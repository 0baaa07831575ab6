"""Translations, steering vectors and inherited autoencoders, for other programs."""

from atlas_jax.export.control_vector import export_control_vector, residual_directions
from atlas_jax.export.inherited_sae import calibrated_sae, export_sae, inherited_sae, match_rates
from atlas_jax.export.snippets import SNIPPETS
from atlas_jax.export.tensors import export_arrays, export_translation
from atlas_jax.export.vectors import export_vectors

__all__ = [
    "SNIPPETS",
    "calibrated_sae",
    "export_arrays",
    "export_control_vector",
    "export_sae",
    "export_translation",
    "export_vectors",
    "inherited_sae",
    "match_rates",
    "residual_directions",
]
