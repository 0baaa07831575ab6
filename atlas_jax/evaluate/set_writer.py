"""Concept sets written by a language model, from descriptions of the subject's features."""

from __future__ import annotations

from collections.abc import Mapping

from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json

PROMPT = """You write test sentences for a feature of a language model. The feature is described as:

{description}

Write {size} different passages in each of which this is clearly present. Each is one or two \
sentences long and reads as if taken from a real text: a book, an article, a conversation, a \
forum, source code or whatever suits the description. Vary topic, style and wording; do not name \
the description itself or talk about language models.

Answer with a JSON list of {size} strings and nothing else."""


def write_texts(
    endpoint: Endpoint, descriptions: Mapping[int, str], size: int = 20
) -> dict[int, list[str]]:
    """Texts in which each described feature is present, as a model writes them.

    Args:
        endpoint: answers the question; its cache makes a second call free.
        descriptions: of subject features.
        size: texts of each.

    Returns:
        By feature; those without a usable answer are left out, and `endpoint.usage` counts them.

    Raises:
        InputError: no description, or no usable answer at all.
    """
    if not descriptions:
        raise InputError("Expected descriptions of subject features, got none.")
    questions = [
        [{"role": "user", "content": PROMPT.format(description=text, size=size)}]
        for text in descriptions.values()
    ]
    answers = endpoint.ask(questions, lambda text: parse_texts(text, size), "writing concept sets")
    found = {f: texts for f, texts in zip(descriptions, answers, strict=True) if texts is not None}
    if not found:
        raise InputError(
            f"Expected lists of {size} texts from {endpoint.model}, got none for "
            f"{len(descriptions)} features: use another model."
        )
    return found


def parse_texts(answer: str, size: int) -> list[str]:
    """The first `size` texts of an answer.

    Raises:
        ValueError: no JSON list, or fewer different texts.
    """
    start, end = answer.find("["), answer.rfind("]")
    if start < 0 or end < start:
        raise ValueError("no list")
    texts = parse_json(answer[start : end + 1])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not all are texts")
    different = list(dict.fromkeys(text.strip() for text in texts if len(text.split()) > 1))
    if len(different) < size:
        raise ValueError(f"{len(different)} of {size} texts")
    return different[:size]
