"""What a run measured, for the views that compare: found in its folder, read and not computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.outside import read_json, refusing
from atlas_jax.pipeline.evaluation import layers_of

_METRICS = ("auroc", "ap")
_LIFTS = ("lift.json", "lift/lift.json", "reports/lift.json", "reports/lift/lift.json")


@dataclass(frozen=True)
class Explanation:
    """What two verbalizers say of one direction."""

    name: str
    native: str
    foreign: str
    lift: float | None


@dataclass(frozen=True)
class Lift:
    """The result of a lift: models, headline figure, explanations, the best first."""

    source: str
    target: str
    mean: float | None
    low: float | None
    high: float | None
    explanations: tuple[Explanation, ...]

    def matching(self, words: str) -> tuple[Explanation, ...]:
        """Those that hold all of some words."""
        wanted = words.lower().split()
        return tuple(
            one
            for one in self.explanations
            if all(word in f"{one.name} {one.native} {one.foreign}".lower() for word in wanted)
        )


def read_comparison(folder: Path) -> dict[str, Any]:
    """Quality, retrieval and learning curve, in the form that the report's sections draw.

    The run's own report, and over it what `atlas-jax evaluate` wrote later; what is in neither is
    missing.
    """
    with refusing(f"what was measured in {folder}", "Evaluate the run again"):
        return _comparison(folder)


def _comparison(folder: Path) -> dict[str, Any]:
    report = _read(folder / "report.json") or {}
    wanted = ("quality", "retrieval", "learning_curve")
    found = {key: report[key] for key in wanted if report.get(key)}
    sites = (_read(folder / "reports/translation/translation.json") or {}).get("sites")
    if sites:
        first = next(iter(sites.values()))
        shared = {key: first.get(key) for key in ("n_samples", "n_features", "seed", "base_rate")}
        found["quality"] = {**shared, "layers": layers_of(sites, _METRICS)}
    if sites := (_read(folder / "reports/retrieval/retrieval.json") or {}).get("sites"):
        found["retrieval"] = sites
    return found


def read_lift(folder: Path, given: Path | None = None) -> Lift | None:
    """The lift of a run, or one from elsewhere; None where there is none.

    Args:
        folder: of the run.
        given: lift.json of `atlas-jax lift`, or its folder.

    Raises:
        InputError: `given` holds no lift.
    """
    places = [folder / name for name in _LIFTS]
    if given is not None:
        places = [given / "lift.json" if given.is_dir() else given]
    for path in places:
        content = _read(path)
        if content is not None:
            with refusing(f"the result of atlas-jax lift in {path}"):
                return _lift(content)
    if given is not None:
        raise InputError(f"Expected lift.json of atlas-jax lift at {given}, found none.")
    return None


def _lift(content: Mapping[str, Any]) -> Lift:
    spec, bridge = content["figures"]["lift_spec"], content["bridge"]
    rows = [
        Explanation(
            str(one["name"]),
            str(one["native"][0]),
            str(one["foreign"][0]),
            _number(one.get("lift_spec")),
        )
        for one in content["features"]
    ]
    rows.sort(key=lambda one: float("inf") if one.lift is None else -one.lift)
    sides = [bridge.get(side) or {} for side in ("source", "target")]
    source, target = (f"{s.get('model', '?')} at {s.get('site', '?')}" for s in sides)
    mean, low, high = (_number(spec[name]) for name in ("mean", "low", "high"))
    return Lift(source, target, mean, low, high, tuple(rows))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _read(path: Path) -> dict[str, Any] | None:
    """Of a JSON object in a file; None where there is none."""
    try:
        return read_json(path)
    except InputError:
        return None
