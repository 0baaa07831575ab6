"""The Concept Atlas: a model's site read through a labelled sparse autoencoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.atlas.embed import Embedder, SentenceEmbedder
from atlas_jax.atlas.labels import Labels
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.atlas.sinks import is_content
from atlas_jax.errors import InputError
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.language_model import LanguageModel, PoolFunction
from atlas_jax.models.sites import parse_site
from atlas_jax.query import Query

TOP_FEATURES = 5
LEAST_SIMILARITY = 0.43
"""Cosine that the best description must reach, or the atlas knows nothing about a text.

On the atlas that ships, strings without meaning reach 0.29 to 0.42 with some description, and
themes that it knows 0.45 to 0.77.
"""
SHARE_OF_BEST = 0.7
"""A feature is left out of a text query where its cosine falls below this share of the best one."""
DEAD = "never active on the texts used"
_BUCKETS = (16, 32, 64, 128, 256)


class Atlas:
    """An activation source whose features have names.

    Attributes:
        sae: the autoencoder.
        site: the model's site that it reads.
        labels: descriptions of its features.
        name: what the user called it.
        card: the figures measured when it was made; empty where unknown.
        max_norm: activations beyond this norm are attention sinks and read as no feature at all.
    """

    def __init__(
        self,
        sae: SAE,
        site: str,
        labels: Labels,
        name: str,
        load_model: Callable[[], LanguageModel],
        card: dict[str, Any] | None = None,
        embedder: Callable[[], Embedder] = SentenceEmbedder,
        max_norm: float | None = None,
    ) -> None:
        labels.check(sae.n_features)
        self.sae = sae
        self.site = site
        self.labels = labels
        self.name = name
        self.card = card or {}
        self.max_norm = float("inf") if max_norm is None else max_norm
        self._load_model = load_model
        self._embedder = embedder

    def __repr__(self) -> str:
        share = self.labels.coverage(self.sae.n_features)
        return (
            f"Atlas({self.name!r}, {self.sae.n_features} features of {self.site}, "
            f"{share:.0%} described)"
        )

    @cached_property
    def model(self) -> LanguageModel:
        """The model, loaded when first asked for."""
        model = self._load_model()
        width = model.width(self.site)
        if width != self.sae.width:
            raise InputError(
                f"Expected a model whose {self.site} has width {self.sae.width} (as the atlas "
                f"{self.name} reads), {model.name} has {width}. Pass model=..."
            )
        return model

    @cached_property
    def embedder(self) -> Embedder:
        """What compares texts with descriptions, loaded when first asked for."""
        return self._embedder()

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that the model's weights lie on; None: one device."""
        return self.model.mesh

    @property
    def feature_site(self) -> str:
        """The atlas' only site, in SAELens spelling."""
        return f"{self.site}.hook_sae_acts_post"

    @property
    def sites(self) -> tuple[str, ...]:
        """Its one site."""
        return (self.feature_site,)

    @cached_property
    def fingerprint(self) -> str:
        """Names the exact weights of model and autoencoder."""
        digest = hashlib.sha256(self.model.fingerprint.encode())
        digest.update(repr((self.sae.architecture, self.sae.k, self.site)).encode())
        digest.update(repr((self.sae.apply_b_dec_to_input, self.max_norm)).encode())
        for leaf in jax.tree.leaves(self.sae):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()[:32]

    def width(self, site: str) -> int:
        """Number of features F.

        Raises:
            InputError: another site than the atlas' own.
        """
        if site != self.feature_site:
            raise InputError(f"Expected the atlas' only site, '{self.feature_site}', got '{site}'.")
        return self.sae.n_features

    def read(
        self,
        tokens: Int[Array, "b t"] | np.ndarray,
        mask: Bool[Array, "b t"] | np.ndarray,
        sites: Sequence[str] | None = None,
        pool: PoolFunction | None = None,
    ) -> dict[str, Array]:
        """Feature activations: the model up to its site, encoded per token, pooled, in one program.

        Args:
            tokens: (B, T) ids.
            mask: True at real tokens.
            sites: the atlas' only site; default.
            pool: (B, T, F), (B, T) -> (B, F); must be hashable and the same object every time.

        Returns:
            {site: (B, T, F)}, or (B, F) pooled; zero at padding and at attention sinks.
        """
        sites = self.sites if sites is None else sites
        for site in sites:
            self.width(site)
        self.model.fits(mask)
        acts = _read(
            self.model.graph,
            self.model.state,
            self.sae,
            jnp.asarray(tokens),
            jnp.asarray(mask),
            self.site,
            pool,
            self.max_norm,
        )
        return {site: acts for site in sites}

    def describe(self, feature: int) -> str:
        """The best description of a feature; of one without any, its number.

        Raises:
            InputError: no such feature.
        """
        self._check([feature])
        texts = self.labels[feature]
        return texts[0] if texts else f"feature {feature} (no description)"

    def query(
        self,
        text: str | None = None,
        *,
        features: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        positive: Sequence[str] | None = None,
        negative: Sequence[str] | None = None,
        top: int = TOP_FEATURES,
    ) -> Query:
        """A concept in atlas coordinates; give a text, or features, or example texts.

        Args:
            text: in words; becomes the `top` features whose descriptions lie nearest, each
                weighted by its similarity (cosine of sentence embeddings).
            features: numbers of features.
            weights: of those features; default 1 each.
            positive: texts that have the concept. The query is the mean of their max-pooled
                feature activations, less that of `negative`.
            negative: texts that lack it.
            top: how many features a text query takes.

        Raises:
            InputError: none or several of the three, an empty text, one that no description is
                near to, an unknown feature, or a query that comes out zero.
        """
        ways = {"text": text, "features": features, "positive": positive}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "Expected exactly one of text=..., features=[...] and positive=[...] "
                f"(negative=[...] goes with it), got {', '.join(given) or 'none'}."
            )
        if weights is not None and features is None:
            raise InputError("weights=[...] belong to features=[...], which are missing.")
        if negative is not None and positive is None:
            raise InputError("negative=[...] goes with positive=[...], which is missing.")
        if text is not None:
            return self._from_text(text, top)
        if features is not None:
            return self._from_features(features, weights)
        assert positive is not None
        return self._from_examples(positive, negative or (), top)

    def _from_text(self, text: str, top: int) -> Query:
        text = " ".join(text.split())
        if not text:
            raise InputError("Expected words to search for, got an empty text.")
        found = self.search(text, top)
        if not found:
            raise InputError(
                f"No description of this atlas is near to '{text[:80]}' (all cosines below "
                f"{LEAST_SIMILARITY}): use other words, or features=[...]."
            )
        return self._query(found, text)

    def search(self, text: str, top: int = TOP_FEATURES) -> list[tuple[int, float]]:
        """The features whose descriptions lie nearest to a text, with their cosine, best first."""
        from atlas_jax.atlas.description_index import description_vectors

        features, vectors = description_vectors(self.labels, self.embedder)
        if not len(features):
            raise InputError(f"The atlas {self.name} has no descriptions. Pass labels=...")
        cosines = vectors @ self.embedder.embed([text])[0]
        if cosines.max() < LEAST_SIMILARITY:
            return []
        least = SHARE_OF_BEST * float(cosines.max())
        best: dict[int, float] = {}
        for i in np.argsort(-cosines, kind="stable"):
            if cosines[i] < least or len(best) == top:
                break
            best.setdefault(int(features[i]), float(cosines[i]))
        return list(best.items())

    def _from_features(self, features: Sequence[int], weights: Sequence[float] | None) -> Query:
        if not len(features):
            raise InputError("Expected at least one feature, got none.")
        self._check(features)
        weights = [1.0] * len(features) if weights is None else weights
        if len(weights) != len(features):
            raise InputError(
                f"Expected one weight for each of {len(features)} features, got {len(weights)}."
            )
        pairs = [(int(f), float(w)) for f, w in zip(features, weights, strict=True)]
        return self._query(pairs, ", ".join(self.describe(f) for f, _ in pairs[:3]))

    def _from_examples(self, positive: Sequence[str], negative: Sequence[str], top: int) -> Query:
        if isinstance(positive, str) or isinstance(negative, str):
            raise InputError("Expected lists of texts for positive and negative, got one text.")
        if not len(positive) or not all(t.strip() for t in (*positive, *negative)):
            raise InputError(
                "Expected texts with words in positive and negative, got an empty one."
            )
        vector = self._pooled(positive)
        if len(negative):
            vector = vector - self._pooled(negative)
        order = np.argsort(-np.abs(vector), kind="stable")[:top]
        order = order[vector[order] != 0]
        name = f"like '{positive[0][:40]}'"
        return Query(
            jnp.asarray(vector),
            name,
            tuple(int(f) for f in order),
            tuple(float(vector[f]) for f in order),
        )

    def _pooled(self, texts: Sequence[str]) -> Float[np.ndarray, " F"]:
        total = np.zeros(self.sae.n_features, np.float64)
        for ids in self.tokenizer.encode_batch(list(texts)):
            ids = ids[: _BUCKETS[-1]]
            length = next(b for b in _BUCKETS if b >= len(ids))
            tokens, mask = self.tokenizer.pad([ids], length)
            total += np.asarray(self.read(tokens, mask, pool=_maximum)[self.feature_site])[0]
        return (total / len(texts)).astype(np.float32)

    def _query(self, pairs: Sequence[tuple[int, float]], name: str) -> Query:
        vector = np.zeros(self.sae.n_features, np.float32)
        for feature, weight in pairs:
            vector[feature] += weight
        features, weights = zip(*pairs, strict=True)
        return Query(jnp.asarray(vector), name, features, weights)

    def _check(self, features: Sequence[int]) -> None:
        n = self.sae.n_features
        for feature in features:
            if not 0 <= int(feature) < n or int(feature) != feature:
                raise InputError(
                    f"Expected features from 0 to {n - 1} (atlas {self.name}), got {feature}."
                )


def _maximum(acts: Float[Array, "b t F"], mask: Bool[Array, "b t"]) -> Float[Array, "b F"]:
    """Maximum over real tokens but the first, an attention sink."""
    real = mask.at[:, 0].set(jnp.zeros((), bool)) if mask.shape[1] > 1 else mask
    return jnp.max(jnp.where(real[:, :, None], acts, 0.0), axis=1)


@partial(jax.jit, static_argnames=("graph", "site", "pool"))
def _read(
    graph: Any,
    state: Any,
    sae: SAE,
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    site: str,
    pool: PoolFunction | None,
    max_norm: float | Float[Array, ""],
) -> Array:
    decoder: Decoder = nnx.merge(graph, state)
    where = parse_site(site, decoder.arch)
    _, acts, _ = decoder(decoder.embed_tokens(tokens), mask, taps=(where,), depth=1 + where.layer)
    content = mask & is_content(acts[where], max_norm)
    features = jnp.where(content[:, :, None], encode(sae, acts[where]), 0.0)
    return features if pool is None else pool(features, mask)
