"""Descriptions by a language model, at an endpoint or run here, from marked excerpts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from atlas_jax.atlas.describing.activity import Activity
from atlas_jax.atlas.describing.contexts import ContextReader
from atlas_jax.atlas.describing.windows import excerpt, peaks
from atlas_jax.endpoint import Endpoint
from atlas_jax.files import write_text
from atlas_jax.models.generate import generate
from atlas_jax.models.language_model import LanguageModel

_EXCERPTS, _BEFORE, _AFTER = 10, 20, 5
_LONGEST = 160
_CHUNK = 32

INSTRUCTIONS = (
    "A unit inside a language model responds to some texts and not to others. You are shown "
    "excerpts to which it responds most strongly. The token at which it responds is set between "
    "[[ and ]]. Find what the excerpts have in common: it may be the marked word itself, its "
    "meaning, its grammar, what comes before it, or what the text is about. Answer with one label "
    "of at most twelve words that would let a reader recognise further excerpts. Answer with the "
    "label alone: no introduction, no quotation marks, no explanation."
)


def question(
    activity: Activity, reader: ContextReader, feature: int
) -> list[Mapping[str, str]] | None:
    """The conversation that asks for a feature's label; None for one that is never active."""
    rows = peaks(activity, feature, reader.tokens.shape[1], _EXCERPTS)
    if not len(rows):
        return None
    shown = [excerpt(reader, int(row), _BEFORE, _AFTER, "[[{}]]") for row in rows]
    listed = "\n".join(f"{i}. {text}" for i, text in enumerate(shown, 1))
    # One message of the user, since the templates of some models know no system.
    text = f"{INSTRUCTIONS}\n\nExcerpts:\n{listed}\n\nLabel:"
    return [{"role": "user", "content": text}]


def parse_label(answer: str) -> str:
    """The label that an answer gives.

    Raises:
        ValueError: an answer without one, or a whole essay.
    """
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.S)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not lines:
        raise ValueError("an empty answer")
    text = re.sub(r"^(\W*label\W*:\s*)", "", lines[0], flags=re.I).strip(" \t\"'`*“”.")
    if not any(c.isalnum() for c in text) or len(text) > _LONGEST:
        raise ValueError(f"expected one short label, got {answer[:60]!r}")
    return text


def by_endpoint(
    activity: Activity, reader: ContextReader, endpoint: Endpoint, features: Iterable[int]
) -> dict[int, list[str]]:
    """Labels from an endpoint; features it has no good answer for are left out."""
    asked = _questions(activity, reader, features)
    answers = endpoint.ask(list(asked.values()), parse_label, "asking for labels")
    return {f: [text] for f, text in zip(asked, answers, strict=True) if text is not None}


def by_model(
    activity: Activity,
    reader: ContextReader,
    model: LanguageModel,
    features: Iterable[int],
    cache: Path,
) -> dict[int, list[str]]:
    """Labels from a model with a chat template, run here; what it wrote is kept in `cache`."""
    asked = _questions(activity, reader, features)
    paths = {f: cache / f"{_name(model, messages)}.txt" for f, messages in asked.items()}
    left = [f for f in asked if not paths[f].exists()]
    for start in range(0, len(left), _CHUNK):
        part = left[start : start + _CHUNK]
        answers = generate(
            model,
            [asked[f] for f in part],
            max_new_tokens=32,
            chat=True,
            progress=f"labels {start + 1} to {start + len(part)} of {len(left)}",
        )
        for feature, answer in zip(part, answers, strict=True):
            write_text(paths[feature], answer)
    labels: dict[int, list[str]] = {}
    for feature, path in paths.items():
        try:
            labels[feature] = [parse_label(path.read_text("utf-8"))]
        except ValueError:
            continue
    return labels


def _questions(
    activity: Activity, reader: ContextReader, features: Iterable[int]
) -> dict[int, list[Mapping[str, str]]]:
    found = {feature: question(activity, reader, feature) for feature in features}
    return {feature: messages for feature, messages in found.items() if messages is not None}


def _name(model: LanguageModel, messages: list[Mapping[str, str]]) -> str:
    text = json.dumps([model.fingerprint, messages])
    return hashlib.sha256(text.encode()).hexdigest()[:40]
