"""The Concept Atlas: a model's site read through a labelled sparse autoencoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.activations.pool import PoolFunction
from atlas_jax.atlas.asking import from_examples, from_features, from_text, nearest_text
from atlas_jax.atlas.description_index import DescriptionIndex, index_descriptions
from atlas_jax.atlas.embed import Embedder, SentenceEmbedder
from atlas_jax.atlas.labels import Labels
from atlas_jax.atlas.pooled import encode_pooled, encode_pooled_apart, features_apart
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.atlas.sinks import is_content
from atlas_jax.errors import InputError
from atlas_jax.models.decoder import Decoder
from atlas_jax.models.language_model import LanguageModel
from atlas_jax.models.sites import parse_site
from atlas_jax.query import Query

TOP_FEATURES = 5


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
    def context_length(self) -> int:
        """Tokens of a text that the model was made for."""
        return self.model.context_length

    @property
    def feature_site(self) -> str:
        """The atlas' only site, in SAELens spelling."""
        return f"{self.site}.hook_sae_acts_post"

    @property
    def sites(self) -> tuple[str, ...]:
        """Its one site."""
        return (self.feature_site,)

    @cached_property
    def identity(self) -> str:
        """Names the features: the autoencoder's weights and site, whatever model they read."""
        digest = hashlib.sha256(repr((self.sae.architecture, self.sae.k, self.site)).encode())
        digest.update(repr((self.sae.apply_b_dec_to_input, self.sae.normalize)).encode())
        for leaf in jax.tree.leaves(self.sae):
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """Names the exact weights of autoencoder and model: the identity, a dot, and the rest."""
        rest = repr((self.model.fingerprint, self.max_norm)).encode()
        return f"{self.identity}.{hashlib.sha256(rest).hexdigest()[:16]}"

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

        Pooled, the features of all tokens never exist at once: see `pooled`.

        Args:
            tokens: (B, T) ids.
            mask: True at real tokens.
            sites: the atlas' only site; default.
            pool: (B, T, F), (B, T) -> (B, F), on each feature alone; must be hashable and the same
                object every time.

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
            self.model.mesh if features_apart(self.sae, self.model.mesh) else None,
        )
        return {site: acts for site in sites}

    def describe(self, feature: int) -> str:
        """The best description of a feature; of one without any, its number.

        Raises:
            InputError: no such feature.
        """
        self.check([feature])
        texts = self.labels[feature]
        return texts[0] if texts else f"feature {feature} (no description)"

    def nearest(self, feature: int, k: int = 5) -> list[tuple[int, float]]:
        """The features whose decoder rows point most nearly the same way, with their cosine."""
        self.check([feature])
        decoder = self.sae.W_dec
        cosines = np.asarray(_cosines(decoder, decoder[feature]))
        order = np.argsort(-cosines, kind="stable")
        return [(int(i), float(cosines[i])) for i in order if i != feature][:k]

    def query(
        self,
        text: str | None = None,
        *,
        features: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        positive: Sequence[str] | None = None,
        negative: Sequence[str] | None = None,
        top: int = TOP_FEATURES,
        weighting: str = "similarity",
    ) -> Query:
        """A concept in atlas coordinates; give a text, or features, or example texts.

        Args:
            text: in words; becomes the `top` features whose descriptions lie nearest.
            features: numbers of features.
            weights: of those features; default 1 each.
            positive: texts that have the concept. The query is the mean of their max-pooled
                feature activations, less that of `negative`.
            negative: texts that lack it.
            top: how many features a text query takes.
            weighting: of the features of a text query: `similarity` (cosine of sentence
                embeddings) or `one`.

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
            query = from_text(self, text, top, weighting)
        elif features is not None:
            query = from_features(self, features, weights)
        else:
            query = from_examples(self, positive or (), negative or (), top)
        return replace(query, atlas=self.identity)

    def load_query(self, path: str | os.PathLike[str]) -> Query:
        """Reads a query that `Query.save` wrote.

        Raises:
            InputError: no such file, a damaged one, or a query of another atlas.
        """
        return Query.load(path).check(self.identity, self.sae.n_features)

    @cached_property
    def index(self) -> DescriptionIndex:
        """The embedded descriptions.

        Raises:
            InputError: there are none.
        """
        found = index_descriptions(self.labels, self.embedder)
        if not len(found.features):
            raise InputError(f"The atlas {self.name} has no descriptions. Pass labels=...")
        return found

    def search(self, text: str, top: int = TOP_FEATURES) -> list[tuple[int, float]]:
        """The features whose descriptions lie nearest to a text, with their cosine, best first."""
        return nearest_text(self.index, self.embedder, text, top)

    def check(self, features: Sequence[int]) -> None:
        """Refuses numbers that name no feature.

        Raises:
            InputError: naming the first of them.
        """
        n = self.sae.n_features
        for feature in features:
            if not 0 <= int(feature) < n or int(feature) != feature:
                raise InputError(
                    f"Expected features from 0 to {n - 1} (atlas {self.name}), got {feature}."
                )


@jax.jit
def _cosines(decoder: Float[Array, "F d"], row: Float[Array, " d"]) -> Float[Array, " F"]:
    norms = jnp.linalg.norm(decoder, axis=1) * jnp.linalg.norm(row)
    products = jnp.matmul(decoder, row, precision=jax.lax.Precision.HIGHEST)
    return products / jnp.where(norms > 0, norms, 1.0)


@partial(jax.jit, static_argnames=("graph", "site", "pool", "mesh"))
def _read(
    graph: Any,
    state: Any,
    sae: SAE,
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    site: str,
    pool: PoolFunction | None,
    max_norm: float | Float[Array, ""],
    mesh: Mesh | None = None,
) -> Array:
    decoder: Decoder = nnx.merge(graph, state)
    where = parse_site(site, decoder.arch)
    _, acts, _ = decoder(decoder.embed_tokens(tokens), mask, taps=(where,), depth=1 + where.layer)
    content = mask & is_content(acts[where], max_norm)
    if pool is not None and mesh is not None:
        return encode_pooled_apart(sae, acts[where], content, mask, pool, mesh)
    if pool is not None:
        return encode_pooled(sae, acts[where], content, mask, pool)
    return jnp.where(content[:, :, None], encode(sae, acts[where]), 0.0)
