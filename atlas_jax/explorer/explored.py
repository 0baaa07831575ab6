"""A run as the explorer reads it: each part when first needed, and only as much as is shown."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from atlas_jax.atlas import Atlas
from atlas_jax.errors import InputError
from atlas_jax.explorer.held_out import HeldOut, Spread
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.pipeline.token_heat import read_heat
from atlas_jax.translate.stored import StoredTranslation, largest

ALL = "all sites"
CONCEPTS = 8
TICKED = 5
_DEFAULT_METHOD = "procrustes"


@dataclass(frozen=True)
class Concept:
    """An atlas feature with a weight: of a query, or of a subject feature's unit row."""

    feature: int
    weight: float
    description: str


@dataclass(frozen=True)
class Ranked:
    """A subject feature that a query found; `concepts` are its own largest."""

    site: str
    feature: int
    score: float
    concepts: tuple[Concept, ...]


@dataclass(frozen=True)
class Sample:
    """A held-out text; where the model has run on it, its tokens and their heat (0 to 1)."""

    text: str
    source: str
    activation: float
    tokens: tuple[str, ...] = ()
    heat: tuple[float, ...] = ()


@dataclass(frozen=True)
class Detail:
    """What is known of a subject feature under one translation."""

    site: str
    method: str
    feature: int
    concepts: tuple[Concept, ...]
    samples: tuple[Sample, ...]
    spread: Spread | None


class Explored:
    """The data of every view.

    Args:
        folder: of the run.
        lift: result of a lift to show; default: that of the run folder, where there is one.

    Raises:
        InputError: no run there, or none that was fitted.
    """

    def __init__(self, folder: str | Path, lift: Path | None = None) -> None:
        self.run = RunFolder(folder)
        self.sites = self.run.sites
        self.methods = self.run.choose_methods(None)
        self.lift_path = lift
        self.held_out = HeldOut(self.run)
        self.model_lock = threading.Lock()
        """Held while the subject runs: two at once would take twice the memory."""
        self._files: dict[tuple[str, str], StoredTranslation] = {}
        self._lock = threading.RLock()

    @property
    def method(self) -> str:
        """The one shown first."""
        return _DEFAULT_METHOD if _DEFAULT_METHOD in self.methods else self.methods[0]

    @cached_property
    def atlas(self) -> Atlas:
        """The atlas; its model is never loaded here."""
        with self._lock:
            return self.run.atlas

    @property
    def max_tokens(self) -> int:
        """Where texts were cut."""
        return int(self.run.recipe.get("capture", {}).get("max_tokens", 256))

    def warm(self) -> None:
        """Reads what the first answer needs; what cannot be read is said when somebody asks."""
        with suppress(InputError):
            for times in (1, 4):  # programs for queries of up to 16 and 32 tokens
                self.search("words that load it " * times)
        with suppress(InputError):
            for site in self.places(ALL, self.method):
                _ = self.stored(site, self.method).row_norms
            self.held_out.text(0)

    def read_tops(self) -> None:
        """Finds the top texts of every site; quick where the run has them on disk."""
        for site in self.sites:
            with suppress(InputError):
                self.held_out.top(site)

    def stored(self, site: str, method: str) -> StoredTranslation:
        """A translation, opened but not read.

        Raises:
            InputError: the run has none by this method there.
        """
        if site not in self.run.files:
            raise InputError(f"Expected a site among {', '.join(self.sites)}, got '{site}'.")
        with self._lock:
            if (site, method) not in self._files:
                self._files[site, method] = StoredTranslation(self.run.file(site, method))
            return self._files[site, method]

    def concept(self, feature: int, weight: float = 1.0) -> Concept:
        """An atlas feature with its description.

        Raises:
            InputError: no such feature.
        """
        return Concept(feature, weight, self.atlas.describe(feature))

    def search(self, text: str, top: int = CONCEPTS) -> list[Concept]:
        """Atlas features whose descriptions lie nearest to words; numbers name features.

        Raises:
            InputError: a number that names none.
        """
        words = " ".join(text.split())
        numbers = words.replace(",", " ").replace("#", " ").split()
        if numbers and all(part.isdecimal() and part.isascii() for part in numbers):
            return [self.concept(int(n)) for n in dict.fromkeys(numbers)][:top]
        with self._lock:
            found = self.atlas.search(words, top) if words else []
        return [self.concept(feature, round(cosine, 2)) for feature, cosine in found]

    def places(self, site: str, method: str) -> list[str]:
        """The sites that a choice means: those fitted with the method."""
        chosen = self.sites if site == ALL else (site,)
        return [one for one in chosen if method in self.run.files.get(one, {})]

    def rank(
        self, weights: Mapping[int, float], site: str, method: str, k: int = 20
    ) -> list[Ranked]:
        """The subject features that score highest on a query (eq. 3), over one site or all.

        Raises:
            InputError: a query that is zero.
        """
        hits: list[tuple[float, str, int]] = []
        for place in self.places(site, method):
            for feature, score in largest(self.stored(place, method).scores(weights), k):
                hits.append((score, place, feature))
        hits.sort(key=lambda hit: -hit[0])
        return [
            Ranked(place, feature, score, self._concepts(place, method, feature, 2))
            for score, place, feature in hits[:k]
        ]

    def detail(self, site: str, method: str, feature: int) -> Detail:
        """What is known of a subject feature; texts are left out where the run kept none.

        Raises:
            InputError: no such feature.
        """
        concepts = self._concepts(site, method, feature, CONCEPTS)
        try:
            top, spread = self.held_out.top(site), self.held_out.spread(site, feature)
        except InputError:
            return Detail(site, method, feature, concepts, (), None)
        samples = []
        for row, value in zip(top.rows[:, feature], top.values[:, feature], strict=True):
            text, source = self.held_out.text(int(row))
            samples.append(Sample(text, source, float(value)))
        return Detail(site, method, feature, concepts, tuple(samples), spread)

    def heated(self, detail: Detail) -> Detail:
        """The same with the activation at each token; loads the subject at its first call."""
        places = [(sample.text, detail.site, detail.feature) for sample in detail.samples]
        with self.model_lock:
            found = read_heat(self.run.model, places, self.max_tokens)
        samples: Sequence[Sample] = [
            replace(sample, tokens=tuple(tokens), heat=tuple(heat))
            for sample, (tokens, heat) in zip(detail.samples, found, strict=True)
        ]
        return replace(detail, samples=tuple(samples))

    def _concepts(self, site: str, method: str, feature: int, k: int) -> tuple[Concept, ...]:
        found = self.stored(site, method).top_concepts(feature, k)
        return tuple(self.concept(j, weight) for j, weight in found)
