"""Labelling an atlas: descriptions from several sources, each scored on held-out contexts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_jax.atlas.describing.activity import Activity, find_activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.detection import detection_scores
from atlas_jax.atlas.describing.explain import by_endpoint, by_model
from atlas_jax.atlas.describing.statistics import by_statistics
from atlas_jax.atlas.describing.vocabulary import by_vocabulary
from atlas_jax.atlas.embed import Embedder
from atlas_jax.atlas.formats.saelens import load_saelens
from atlas_jax.atlas.labels import Label, Labels
from atlas_jax.atlas.sinks import norm_limit
from atlas_jax.atlas.token_activations import TokenSource
from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError
from atlas_jax.models.language_model import LanguageModel

_SAMPLE_CONTEXTS = 256


@dataclass(frozen=True)
class Material:
    """What descriptions are made from.

    Attributes:
        activity: where features are active, on the contexts that are not held out.
        reader: of all contexts.
        features: which to describe.
        embedder: of texts.
        endpoint: to ask, if any.
        explainer: a model to ask, if any.
        cache: folder of what the explainer wrote.
    """

    activity: Activity
    reader: ContextReader
    features: Sequence[int]
    embedder: Embedder
    endpoint: Endpoint | None
    explainer: LanguageModel | None
    cache: Path


Texts = dict[int, list[str]]


def _statistics(m: Material) -> tuple[str, Texts]:
    return "statistics", by_statistics(m.activity, m.reader, m.embedder, m.features)


def _vocabulary(m: Material) -> tuple[str, Texts]:
    return "vocabulary", by_vocabulary(m.activity, m.reader, m.embedder, m.features)


def _endpoint(m: Material) -> tuple[str, Texts]:
    if m.endpoint is None:
        raise InputError("Expected an endpoint (its address and the name of a model), got none.")
    texts = by_endpoint(m.activity, m.reader, m.endpoint, m.features)
    return f"endpoint {m.endpoint.model}", texts


def _model(m: Material) -> tuple[str, Texts]:
    if m.explainer is None:
        raise InputError("Expected a model that explains, got none.")
    texts = by_model(m.activity, m.reader, m.explainer, m.features, m.cache)
    return f"model {m.explainer.name}", texts


LABEL_SOURCES: dict[str, Callable[[Material], tuple[str, Texts]]] = {
    "statistics": _statistics,
    "vocabulary": _vocabulary,
    "endpoint": _endpoint,
    "model": _model,
}


def label_atlas(
    folder: str | os.PathLike[str],
    source: TokenSource,
    model: LanguageModel,
    embedder: Embedder,
    by: Sequence[str] = ("statistics",),
    *,
    features: Sequence[int] | None = None,
    heldout: float = 0.2,
    endpoint: Endpoint | None = None,
    explainer: LanguageModel | None = None,
) -> Labels:
    """Describes features of a saved atlas and writes `labels.jsonl` into its folder.

    What the file holds of other features and other sources stays, with its scores.

    Args:
        folder: a SAELens folder.
        source: activations of the site.
        model: whose tokenizer reads the tokens.
        embedder: names topics, finds phrases, and judges.
        by: keys of `LABEL_SOURCES`.
        features: which; default all.
        heldout: share of the contexts, from the end, that descriptions are scored on.
        endpoint: of the source `endpoint`.
        explainer: of the source `model`; needs a chat template.

    Returns:
        The new labels.

    Raises:
        InputError: an unknown source or feature, activations of another site, or a
            `labels.jsonl` that is damaged or somebody else's export.
    """
    unknown = [name for name in by if name not in LABEL_SOURCES]
    if unknown or not by:
        raise InputError(
            f"Expected sources among {', '.join(LABEL_SOURCES)}, got "
            f"{', '.join(unknown) or 'none'}."
        )
    if not 0 < heldout < 1:
        raise InputError(f"Expected a held-out share between 0 and 1, got {heldout}.")
    folder = Path(folder)
    loaded = load_saelens(folder)
    sae, n = loaded.sae, loaded.sae.n_features
    features = range(n) if features is None else sorted(set(features))
    if any(not 0 <= feature < n for feature in features):
        raise InputError(f"Expected features from 0 to {n - 1}, got {features[0]}, {features[-1]}.")
    path = folder / "labels.jsonl"
    known = Labels.load(path) if path.exists() else Labels({})
    if known.origin:
        raise InputError(
            f"Expected descriptions that atlas-jax wrote in {path}, got an export of "
            f"{known.origin}, which would lose its other fields: give that file another name."
        )
    limit = loaded.max_norm
    if limit is None:
        limit = norm_limit(source.read(np.arange(min(_SAMPLE_CONTEXTS, len(source.tokens)))))
    contexts = len(source.tokens)
    split = min(contexts - 1, max(1, round((1 - heldout) * contexts)))
    reader = ContextReader(vocabulary(model), source.tokens)
    material = Material(
        find_activity(sae, source, limit, range(split)),
        reader,
        features,
        embedder,
        endpoint,
        explainer,
        folder / "explanations",
    )
    made = Labels.of(
        (feature, Label(text, name))
        for name, texts in (LABEL_SOURCES[key](material) for key in by)
        for feature, found in texts.items()
        for text in found
    )
    last = range(split, contexts)
    held = find_activity(sae, source, limit, last)
    scored = detection_scores(made, held, last, reader, embedder)
    replaced = {(feature, label.source) for feature, label in scored.pairs()}
    kept = [(f, label) for f, label in known.pairs() if (f, label.source) not in replaced]
    Labels.of([*scored.pairs(), *kept]).save(path)
    return scored


def vocabulary(model: LanguageModel) -> list[str]:
    """Text of every token id; special tokens are empty."""
    pieces = model.tokenizer.tokens(np.arange(model.arch.vocab_size))
    for index in (model.tokenizer.bos_id, model.tokenizer.eos_id, model.tokenizer.pad_id):
        if index is not None:
            pieces[index] = ""
    return pieces
