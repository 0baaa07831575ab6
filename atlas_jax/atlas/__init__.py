from atlas_jax.atlas.atlas import Atlas
from atlas_jax.atlas.batch_top_k import Recipe
from atlas_jax.atlas.card import measure_card
from atlas_jax.atlas.describe import describe_features, label_atlas
from atlas_jax.atlas.embed import SentenceEmbedder
from atlas_jax.atlas.formats import SAE_FORMATS, load_saelens, save_saelens
from atlas_jax.atlas.labels import Label, Labels
from atlas_jax.atlas.load import load_atlas
from atlas_jax.atlas.reference import released
from atlas_jax.atlas.sae import SAE, decode, encode
from atlas_jax.atlas.token_activations import TokenActivations, collect, open_activations
from atlas_jax.atlas.train import train_atlas

__all__ = [
    "SAE",
    "SAE_FORMATS",
    "Atlas",
    "Label",
    "Labels",
    "Recipe",
    "SentenceEmbedder",
    "TokenActivations",
    "collect",
    "decode",
    "describe_features",
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
