"""Recipes of a lift: two models, a bridge, two verbalizers, and what is compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.pipeline.recipe import change, check_name, read_recipe, settings


@dataclass(frozen=True)
class BridgeSource:
    """Both models and how their tokens are paired (see `Pairing`, `Ridge` and `fit_bridge`)."""

    source: str = ""
    source_site: str = ""
    target: str = ""
    target_site: str = ""
    dtype: str = "float32"
    pairs: int = 20_000
    min_left: int = 50
    per_text: int = 8
    max_tokens: int = 512
    pooling: str = "token"
    rows: str = "raw"
    folds: int = 5
    choose: str = "kfold"


@dataclass(frozen=True)
class Passages:
    """The texts: passages of whole documents, at most `of_a_document` of each."""

    source: str = "packages"
    split: str = "test"
    characters: int = 2000
    of_a_document: int = 4


@dataclass(frozen=True)
class Features:
    """Whose decoder rows are explained: `chosen` ones, or `count` drawn by `seed`."""

    sae: str = ""
    chosen: tuple[int, ...] = ()
    count: int = 45
    seed: int = 0


@dataclass(frozen=True)
class VerbalizerSource:
    """A verbalizer: a reference for `load_verbalizer`, and what it reads."""

    id: str = ""
    revision: str = ""
    reads: str = ""
    block: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Verbalizers:
    """Of the source, and of the target."""

    native: VerbalizerSource = field(default_factory=VerbalizerSource)
    foreign: VerbalizerSource = field(default_factory=VerbalizerSource)


@dataclass(frozen=True)
class WashoutChoice:
    """The headline's washout ("auto", "bare" or degrees), and which are compared with it."""

    angle: str = "auto"
    sweep: bool = True


@dataclass(frozen=True)
class LiftChoice:
    """What is measured (see `LiftPlan`); greedy explanations and `samples` of them are reported
    apart."""

    samples: int = 4
    temperature: float = 0.7
    random: int = 100
    families: tuple[str, ...] = ("mapped_gauss", "mapped_cov", "target_iso")
    shuffled_map: bool = True
    draws: int = 2000
    permutations: int = 9999
    clusters: int = 0
    margin: float = 0.02
    part: str = "full"
    max_new_tokens: int = 200


@dataclass(frozen=True)
class LiftRecipe:
    """A lift."""

    name: str = "lift"
    bridge: BridgeSource = field(default_factory=BridgeSource)
    corpus: Passages = field(default_factory=Passages)
    features: Features = field(default_factory=Features)
    verbalizers: Verbalizers = field(default_factory=Verbalizers)
    washout: WashoutChoice = field(default_factory=WashoutChoice)
    lift: LiftChoice = field(default_factory=LiftChoice)

    def check(self) -> LiftRecipe:
        """Itself.

        Raises:
            InputError: a name that is missing, or a verbalizer that reads something else.
        """
        check_name(self.name, "the recipe")
        needed = {
            "bridge.source": self.bridge.source,
            "bridge.target": self.bridge.target,
            "features.sae": self.features.sae,
            "verbalizers.native.id": self.verbalizers.native.id,
            "verbalizers.foreign.id": self.verbalizers.foreign.id,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise InputError(f"Expected {', '.join(missing)} in the recipe {self.name}, got none.")
        for name, site, side in (
            ("native", self.bridge.source_site, self.verbalizers.native),
            ("foreign", self.bridge.target_site, self.verbalizers.foreign),
        ):
            reads = f"blocks.{side.block}.hook_resid_post"
            if site != reads:
                raise InputError(
                    f"Expected the {name} verbalizer to read the bridge's {site}, it reads {reads}."
                )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return asdict(self)

    def with_values(self, values: dict[str, Any]) -> LiftRecipe:
        """Some values replaced, by dotted name: {"bridge.pairs": 5000}.

        Raises:
            InputError: an unknown name, or a value of another type.
        """
        return settings(LiftRecipe, change(self.to_dict(), values), "")


def is_lift(reference: str | Path) -> bool:
    """Whether a recipe is one of a lift: it has a table [bridge]."""
    return "bridge" in read_recipe(reference)


def load_lift_recipe(reference: str | Path) -> LiftRecipe:
    """A recipe of a lift by name (one that ships) or by file.

    Raises:
        InputError: no such recipe, or one that is not understood.
    """
    return settings(LiftRecipe, read_recipe(reference), "").check()
