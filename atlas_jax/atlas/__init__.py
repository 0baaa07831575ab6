from atlas_jax.atlas.atlas import Atlas
from atlas_jax.atlas.card import measure_card
from atlas_jax.atlas.describing import LABEL_SOURCES, label_atlas
from atlas_jax.atlas.embed import SentenceEmbedder
from atlas_jax.atlas.formats import SAE_FORMATS, load_saelens, save_saelens
from atlas_jax.atlas.labels import Label, Labels
from atlas_jax.atlas.load import load_atlas
from atlas_jax.atlas.recording import collect, open_activations
from atlas_jax.atlas.reference import released
from atlas_jax.atlas.sae import SAE, decode, encode
from atlas_jax.atlas.token_activations import (
    ModelActivations,
    TokenActivations,
    cut_contexts,
)
from atlas_jax.atlas.training import Recipe, train_atlas

__all__ = [
    "LABEL_SOURCES",
    "SAE",
    "SAE_FORMATS",
    "Atlas",
    "Label",
    "Labels",
    "ModelActivations",
    "Recipe",
    "SentenceEmbedder",
    "TokenActivations",
    "collect",
    "cut_contexts",
    "decode",
    "encode",
    "label_atlas",
    "load_atlas",
    "load_saelens",
    "measure_card",
    "open_activations",
    "released",
    "save_saelens",
    "train_atlas",
]
