"""Embedded descriptions: computed once for a set of labels and kept in the cache folder."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.assets import cache_folder
from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.labels import DEAD, Labels
from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors

_BLOCK = 4096


@dataclass(frozen=True)
class DescriptionIndex:
    """Descriptions as unit vectors, those of one feature side by side.

    Attributes:
        features: the described features, in rising order.
        starts: where each one's vectors begin.
        vectors: of all descriptions.
    """

    features: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " n"]
    vectors: Float[np.ndarray, "m d"]

    @cached_property
    def alone(self) -> bool:
        """Whether each feature has one description."""
        return len(self.features) == len(self.vectors)

    def cosines(self, query: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """For each feature, the cosine of its nearest description with a unit vector."""
        every = self.vectors @ query
        return every if self.alone else np.maximum.reduceat(every, self.starts)


def index_descriptions(labels: Labels, embedder: Embedder) -> DescriptionIndex:
    """Embeds every description, or reads from the cache what was embedded before.

    Blocks of 4,096 descriptions are kept one by one, named by their texts and the embedder, so that
    an interrupted run goes on where it stopped.
    """
    pairs = [(f, text) for f in sorted(labels.features) for text in labels[f] if text != DEAD]
    owners = np.array([feature for feature, _ in pairs], np.int64)
    features, starts = np.unique(owners, return_index=True)
    texts = [text for _, text in pairs]
    blocks = [texts[i : i + _BLOCK] for i in range(0, len(texts), _BLOCK)]
    parts = [_vectors(block, embedder) for block in blocks]
    parts = parts or [np.zeros((0, embedder.width), np.float32)]
    return DescriptionIndex(features, starts.astype(np.int64), np.concatenate(parts))


def _vectors(texts: list[str], embedder: Embedder) -> Float[np.ndarray, "n d"]:
    name = hashlib.sha256("\n".join([embedder.fingerprint, *texts]).encode()).hexdigest()
    path = cache_folder() / "descriptions" / f"{name[:32]}.safetensors"
    with suppress(InputError):  # there is none yet, or a damaged one
        _, found = read_tensors(path, "file of vectors", "delete it", needs=("vectors",))
        if found["vectors"].shape == (len(texts), embedder.width):
            return found["vectors"]
    vectors = embedder.embed(texts)
    write_tensors(path, {"vectors": vectors}, {})
    return vectors
