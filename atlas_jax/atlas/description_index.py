"""Embedded descriptions: computed once for a set of labels and kept in the cache folder."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.labels import Labels


def description_vectors(
    labels: Labels, embedder: Embedder
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """The feature and the unit vector of every description, those of dead features left out."""
    from atlas_jax.assets import cache_folder
    from atlas_jax.atlas.atlas import DEAD

    pairs = [(feature, text) for feature, text in labels.pairs() if text != DEAD]
    features = np.array([feature for feature, _ in pairs], np.int64)
    texts = [text for _, text in pairs]
    if not texts:
        return features, np.zeros((0, embedder.width), np.float32)
    name = hashlib.sha256("\n".join([embedder.fingerprint, *texts]).encode()).hexdigest()
    path = cache_folder() / "descriptions" / f"{name[:32]}.safetensors"
    if path.exists():
        try:
            vectors = load_file(path)["vectors"]
        except (SafetensorError, KeyError, OSError):
            vectors = np.zeros((0, 0), np.float32)
        if vectors.shape == (len(texts), embedder.width):
            return features, vectors
    vectors = embedder.embed(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"vectors": vectors}, draft)
    os.replace(draft, path)
    return features, vectors
