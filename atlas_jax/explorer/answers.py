"""What the page answers: the state of its controls in, the views to show out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.explorer import views
from atlas_jax.explorer.explored import ALL, TICKED, Concept, Explored
from atlas_jax.explorer.link import Place
from atlas_jax.explorer.results import read_comparison, read_lift
from atlas_jax.explorer.writing import write
from atlas_jax.outside import refusing
from atlas_jax.report.markup import Html

ROWS = 8
_NOTHING = Html("")


@dataclass(frozen=True)
class Shown:
    """The Search tab: what is open, and its views. `rows` None: as they are."""

    place: Place
    ranking: Html
    detail: Html
    message: Html = _NOTHING
    rows: tuple[tuple[Concept, bool], ...] | None = None


class Answers:
    """The page without its controls.

    Args:
        explored: the run.

    Raises:
        InputError: a lift was given that is none.
    """

    def __init__(self, explored: Explored) -> None:
        self.explored = explored
        self.lift = read_lift(explored.run.folder, explored.lift_path)
        self.sites = (*explored.sites, *([ALL] if explored.sites[1:] else []))

    def read_link(self, query: Mapping[str, str]) -> Place:
        """Where a link leads in this run."""
        explored = self.explored
        place = Place.read(query, self.sites, explored.methods)
        return replace(
            place, site=place.site or self.sites[-1], method=place.method or explored.method
        )

    def search(self, place: Place) -> Iterator[Shown]:
        """Atlas features for words, the first of them ticked unless the place says which are."""
        try:
            found = self.explored.search(place.text, ROWS)
            kept = dict(place.weights)
            extra = [self.explored.concept(f, w) for f, w in kept.items()]
        except InputError as error:
            yield Shown(place, _NOTHING, _NOTHING, views.note(str(error), "problem"), ())
            return
        if kept:
            known = {concept.feature for concept in extra}
            others = [concept for concept in found if concept.feature not in known]
            rows = [(concept, True) for concept in extra] + [(c, False) for c in others]
        else:
            rows = [(concept, i < TICKED) for i, concept in enumerate(found)]
        rows = rows[:ROWS]
        place = replace(place, weights=tuple((c.feature, c.weight) for c, on in rows if on))
        message = _NOTHING
        if place.text.strip() and not found:
            message = views.note(
                "No description of this atlas is near to these words. Try others, or feature "
                "numbers such as 12, 34.",
                "problem",
            )
        for shown in self.show(place):
            yield replace(shown, message=message or shown.message, rows=tuple(rows))

    def show(self, place: Place) -> Iterator[Shown]:
        """The ranking and the open feature; then the same with shaded tokens, where asked for.

        The feature that leads is opened unless the place names one.
        """
        explored = self.explored
        weights = {feature: weight for feature, weight in place.weights if weight}
        try:
            found = explored.rank(weights, place.site, place.method) if weights else []
            if place.feature is None and found:
                place = replace(place, feature=(found[0].site, found[0].feature))
            ranked = views.ranking(found, place.feature)
            if place.feature is None:
                yield Shown(place, ranked, _NOTHING)
                return
            site, feature = place.feature
            detail = explored.detail(site, place.method, feature)
        except InputError as error:
            yield Shown(
                replace(place, feature=None), _NOTHING, _NOTHING, views.note(str(error), "problem")
            )
            return
        shade = place.heat and bool(detail.samples)
        yield Shown(place, ranked, views.detail(detail, waiting=shade))
        if shade:
            try:
                yield Shown(place, ranked, views.detail(explored.heated(detail)))
            except InputError as error:
                message = views.note(str(error), "problem")
                yield Shown(place, ranked, views.detail(detail), message)

    def direction(self, place: Place) -> Html:
        """What the Steer tab steers along."""
        try:
            concepts = [self.explored.concept(*pair) for pair in place.weights if pair[1]]
        except InputError as error:
            return views.note(str(error), "problem")
        return views.direction(concepts, place.site, place.method)

    def steer(
        self, place: Place, prompt: str, strength: float, tokens: int, mode: str
    ) -> Iterator[Html]:
        """Both texts as they grow."""
        weights = {feature: weight for feature, weight in place.weights if weight}
        if not weights:
            yield views.direction([], place.site, place.method)
            return
        try:
            for said in write(
                self.explored, prompt, weights, place.site, place.method, strength, tokens, mode
            ):
                yield views.written(said, strength)
        except InputError as error:
            yield views.note(str(error), "problem")

    def comparison(self) -> Html:
        """The Compare tab."""
        folder = self.explored.run.folder
        try:
            with refusing(f"what was measured in {folder}", "Evaluate the run again"):
                return views.comparison(read_comparison(folder), str(folder))
        except InputError as error:
            return views.note(str(error), "problem")

    def bridge(self, words: str = "") -> Html:
        """The Bridge tab."""
        return views.bridge(self.lift, words, str(self.explored.run.folder))

    def heading(self) -> Html:
        """Whose page this is."""
        recipe, folder = self.explored.run.recipe, self.explored.run.folder
        subject = _short(recipe["subject"]["model"])
        atlas = _short(recipe["atlas"]["reference"])
        return views.heading(subject, atlas, self.explored.sites, str(folder))

    def strengths(self) -> tuple[float, float]:
        """The largest strength to offer, and the one to begin with."""
        known: Sequence[Any] = self.explored.run.recipe.get("steer", {}).get("strengths") or [4.0]
        found = sorted(abs(float(value)) for value in known)
        return 2 * found[-1], found[len(found) // 2]


def _short(reference: str) -> str:
    """A name; of a folder its last part."""
    path = Path(reference).expanduser()
    return path.name if path.is_absolute() else reference
