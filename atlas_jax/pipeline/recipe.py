"""Recipes: one TOML file says everything an experiment needs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

from atlas_jax.errors import InputError
from atlas_jax.outside import refusing, why


@dataclass(frozen=True)
class Subject:
    """The model to be understood: what `load_model` takes, and its sites (default: its own).

    `also` names more models; each goes through the whole experiment in a folder of its own, on the
    same corpus and the same atlas.
    """

    model: str = "gemma-3-270m"
    also: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class AtlasSource:
    """The labelled space: a reference for `load_atlas`."""

    reference: str = "smollm2-135m-12-4k"
    dtype: str = "float32"


@dataclass(frozen=True)
class CorpusSource:
    """The shared texts; `sequences` = 0 takes all there are."""

    source: str = "packages"
    split: str = "test"
    sequences: int = 3600
    train_fraction: float = 0.75
    seed: int = 0


@dataclass(frozen=True)
class Capture:
    """How activations are recorded."""

    pool: str = "max"
    batch_tokens: int = 2048
    max_tokens: int = 256


@dataclass(frozen=True)
class Fit:
    """The methods and their settings (see `translate.Options`)."""

    methods: tuple[str, ...] = ("procrustes",)
    samples: int = 20
    alpha: float = 1.0
    rcond: float = 3e-7


@dataclass(frozen=True)
class Evaluate:
    """Held-out quality: how many atlas features or which, seed, whether to draw the curve."""

    features: int = 100
    chosen: tuple[int, ...] = ()
    seed: int = 0
    curve: bool = False


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of subject features (none when 0): by held-out texts, or by those of a file."""

    features: int = 0
    samples: int = 20
    sets: str = ""
    validity: str = "sets"
    seed: int = 0


@dataclass(frozen=True)
class Identify:
    """What is searched: texts, or tables {name, features, weights}."""

    queries: tuple[Any, ...] = ()
    method: str = "procrustes"
    features: int = 5
    samples: int = 5


@dataclass(frozen=True)
class Steer:
    """What is generated; nothing when `strengths` is empty."""

    prompt: str = ""
    strengths: tuple[float, ...] = ()
    max_new_tokens: int = 40


@dataclass(frozen=True)
class EvaluateSteering:
    """Settings of `atlas-jax evaluate steering`: queries as in `Identify`, and the judge."""

    queries: tuple[Any, ...] = ()
    prompts: tuple[str, ...] = ()
    strengths: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()
    max_new_tokens: int = 100
    judge: str = ""
    judge_samples: int = 3
    judge_temperature: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """An experiment."""

    name: str = "run"
    subject: Subject = field(default_factory=Subject)
    atlas: AtlasSource = field(default_factory=AtlasSource)
    corpus: CorpusSource = field(default_factory=CorpusSource)
    capture: Capture = field(default_factory=Capture)
    fit: Fit = field(default_factory=Fit)
    evaluate: Evaluate = field(default_factory=Evaluate)
    retrieval: Retrieval = field(default_factory=Retrieval)
    identify: Identify = field(default_factory=Identify)
    steer: Steer = field(default_factory=Steer)
    evaluate_steering: EvaluateSteering = field(default_factory=EvaluateSteering)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return asdict(self)

    def subjects(self) -> dict[str, Recipe]:
        """A recipe for each subject, by the name of its folder; one without `also` is itself."""
        if not self.subject.also:
            return {"": self}
        models = (self.subject.model, *self.subject.also)
        return {
            check_name(Path(model).name, "a subject"): replace(
                self, subject=replace(self.subject, model=model, also=())
            )
            for model in models
        }

    def with_values(self, values: Mapping[str, Any]) -> Recipe:
        """Some values replaced, by dotted name: {"corpus.sequences": 500}.

        Raises:
            InputError: an unknown name, or a value of another type.
        """
        made = settings(Recipe, change(self.to_dict(), values), "")
        check_name(made.name, "the recipe")
        return made


def change(data: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Sets values by dotted name.

    Raises:
        InputError: an unknown name.
    """
    for name, value in values.items():
        place, keys = data, name.split(".")
        for key in keys[:-1]:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict) or keys[-1] not in place:
            raise InputError(f"Expected a setting of the recipe, got '{name}'. See its file.")
        place[keys[-1]] = value
    return data


def check_name(name: str, whose: str) -> str:
    """A name that becomes a folder, itself.

    Raises:
        InputError: it would be another folder's.
    """
    if not re.fullmatch(r"(?!\.+$)[^/\\:\0]{1,200}", name):
        raise InputError(f"Expected a name of {whose} that can be a folder's, got {name!r}.")
    return name


def load_recipe(reference: str | Path) -> Recipe:
    """A recipe by name (one that ships) or by file.

    Raises:
        InputError: no such recipe, invalid TOML, an unknown setting, or a value of another type.
    """
    made = settings(Recipe, read_recipe(reference), "")
    check_name(made.name, "the recipe")
    return made


def read_recipe(reference: str | Path) -> dict[str, Any]:
    """What a recipe's file says.

    Raises:
        InputError: no such recipe, or invalid TOML.
    """
    with refusing(f"the recipe {str(reference)!r}"):
        path = Path(reference).expanduser()
    shipped = {
        item.name.removesuffix(".toml"): item
        for item in files("atlas_jax.recipes").iterdir()
        if item.name.endswith(".toml")
    }
    if os.path.isfile(path):
        with refusing(f"the recipe {path}"):
            text = path.read_text("utf-8")
    elif str(reference) in shipped:
        text = shipped[str(reference)].read_text("utf-8")
    else:
        raise InputError(
            f"Expected a recipe file or one of {', '.join(sorted(shipped))}, got '{reference}'."
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{reference} is not valid TOML: {why(error)}.") from None


def settings(kind: type, data: Mapping[str, Any], where: str) -> Any:
    """A dataclass of a table's values.

    Raises:
        InputError: an unknown setting, or a value of another type.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(data) - {f.name for f in fields(kind)})
    if unknown:
        known = ", ".join(f.name for f in fields(kind))
        raise InputError(
            f"Expected settings among {known} in {where.rstrip('.') or 'the recipe'}, got "
            f"{', '.join(unknown)}."
        )
    made = {name: _value(hints[name], value, f"{where}{name}") for name, value in data.items()}
    return replace(kind(), **made)


def _value(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise InputError(f"Expected a table [{where}], got {value!r}.")
        return settings(kind, value, f"{where}.")
    if kind in (str, bool, int):
        if type(value) is not kind or (kind is int and abs(int(value)) >> 63):
            raise InputError(f"Expected {where} of type {kind.__name__}, got {value!r}.")
        return value
    if kind is float:
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise InputError(f"Expected {where} to be a finite number, got {value!r}.")
        return float(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"Expected {where} to be a list, got {value!r}.")
    item = get_args(kind)[0]
    return tuple(v if item is Any else _value(item, v, where) for v in value)
