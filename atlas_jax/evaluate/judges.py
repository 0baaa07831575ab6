"""Judges: who says whether a text expresses a concept (2), perhaps (1), or does not (0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from atlas_jax.evaluate.judges_endpoint import EndpointJudge
from atlas_jax.evaluate.judges_local import EmbeddingJudge, LexicalJudge


@runtime_checkable
class Judge(Protocol):
    """What rates texts.

    Attributes:
        name: what reports call it.
        fingerprint: changes whenever its ratings may.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def rate(self, concepts: Sequence[str], texts: Sequence[str]) -> list[int | None]:
        """A rating of each text for the concept beside it; None where there is none to be had."""
        ...

    def report(self) -> dict[str, Any]:
        """What a report should say of it: settings, and what it was asked and cost."""
        ...


JUDGES: dict[str, Callable[..., Judge]] = {
    "endpoint": EndpointJudge,
    "embedding": EmbeddingJudge,
    "lexical": LexicalJudge,
}
"""The judges by name."""
