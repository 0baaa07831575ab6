"""Runs the recipe of a lift: texts, bridge, explanations, figures; each stage resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.files import write_json
from atlas_jax.journal import Journal
from atlas_jax.outside import read_json
from atlas_jax.pipeline.lift_recipe import LiftRecipe, VerbalizerSource
from atlas_jax.pipeline.passages import read_passages
from atlas_jax.verbalize import (
    BARE,
    Background,
    Bridge,
    Pairing,
    Ridge,
    Verbalizer,
    Washout,
    load_verbalizer,
    record_background,
    solve_bridge,
)
from atlas_jax.verbalize.fit_bridge import read_moments
from atlas_jax.verbalize.lift_page import save_lift
from atlas_jax.verbalize.lift_run import JOURNAL, LiftPlan, measure_lift
from atlas_jax.verbalize.reading import ModelSide, PairReader
from atlas_jax.verbalize.washout_comparison import usual_washouts

Say = Callable[[str], None]
_SIDES = ("source", "target")
_BACKGROUND = 1024
"""Texts that backgrounds are read on, a token of each."""


def run_lift(recipe: LiftRecipe, folder: Path, say: Say, embedder: Any = None) -> Path:
    """Everything up to the page; what an earlier run finished is not done again.

    Args:
        recipe: of the lift.
        folder: for bridge, backgrounds, figures and page.
        say: called with a line for each stage.
        embedder: texts to unit vectors; default: `SentenceEmbedder`.

    Returns:
        The page, lift.html, of the sampled explanations where there are some; greedy ones are in
        greedy.html and greedy.json.

    Raises:
        InputError: something that cannot be read, or a folder with another recipe's bridge.
    """
    recipe = recipe.check()
    folder.mkdir(parents=True, exist_ok=True)
    _same_recipe(recipe, folder / "recipe.json")
    rows, names = _features(recipe)
    bridge, shuffled = _bridges(recipe, folder, say)
    say(f"{bridge!r}: {bridge.meta['fve']}")
    native = _speaker(recipe, recipe.verbalizers.native, folder / "source.background.safetensors")
    foreign = _speaker(
        recipe, recipe.verbalizers.foreign, folder / "target.background.safetensors", bridge
    )
    if embedder is None:
        from atlas_jax.atlas.embed import SentenceEmbedder

        embedder = SentenceEmbedder()
    page = folder / "lift.html"
    with Journal(folder / JOURNAL) as journal:
        native.journal = foreign.journal = journal
        for samples, name in _passes(recipe):
            say(f"{len(rows)} features, {samples} explanation(s) of each")
            plan = _plan(recipe, samples, foreign)
            result = measure_lift(rows, native, foreign, bridge, embedder, plan, names, shuffled)
            page = save_lift(result | {"recipe": recipe.to_dict()}, folder / f"{name}.html")
            spec = result["figures"]["lift_spec"]
            say(f"{name}: lift {spec['mean']:+.3f} ({spec['low']:+.3f} to {spec['high']:+.3f})")
    return page


def _passes(recipe: LiftRecipe) -> list[tuple[int, str]]:
    samples = recipe.lift.samples
    return [(1, "lift")] if samples == 1 else [(1, "greedy"), (samples, "lift")]


def _plan(recipe: LiftRecipe, samples: int, foreign: Verbalizer) -> LiftPlan:
    lift, angle = recipe.lift, recipe.washout.angle
    washout = BARE if angle == "bare" else Washout(angle if angle == "auto" else float(angle))
    compared = recipe.washout.sweep and samples == lift.samples and foreign.background is not None
    return LiftPlan(
        washout=washout,
        samples=samples,
        temperature=lift.temperature,
        random=lift.random,
        families=lift.families,
        draws=lift.draws,
        permutations=lift.permutations,
        clusters=lift.clusters,
        sweep=usual_washouts(foreign.background) if compared and foreign.background else {},
        margin=lift.margin,
    )


def _same_recipe(recipe: LiftRecipe, path: Path) -> None:
    """Refuses a folder whose bridge is of other models, texts or pairs."""
    mine = {key: recipe.to_dict()[key] for key in ("bridge", "corpus")}
    mine = json.loads(json.dumps(mine))
    if path.exists() and read_json(path) != mine:
        raise InputError(
            f"Expected a run with this bridge and these texts in {path.parent}, it holds another: "
            "use another folder."
        )
    write_json(path, mine)


def _features(recipe: LiftRecipe) -> tuple[np.ndarray, list[str]]:
    """Decoder rows and their names."""
    from atlas_jax.atlas.formats import SAE_FORMATS, find_format
    from atlas_jax.atlas.reference import find_sae

    features, found = recipe.features, find_sae(recipe.features.sae)
    sae = SAE_FORMATS[find_format(found.folder)].load(found.folder, dict(found.extra)).sae
    n = sae.n_features
    if features.chosen and max(features.chosen) >= n:
        raise InputError(f"Expected features below {n}, got {max(features.chosen)}.")
    rng = np.random.default_rng(features.seed)
    chosen = list(features.chosen) or sorted(rng.permutation(n)[: features.count].tolist())
    return np.asarray(sae.W_dec)[chosen], [str(i) for i in chosen]


def _bridges(recipe: LiftRecipe, folder: Path, say: Say) -> tuple[Bridge, Bridge | None]:
    """The bridge and the one of wrong pairs, with the backgrounds of both models."""
    wanted = ["bridge"] + (["shuffled"] if recipe.lift.shuffled_map else [])
    files = [folder / f"{name}.safetensors" for name in wanted]
    needed = [*files, *(folder / f"{side}.background.safetensors" for side in _SIDES)]
    if not all(path.exists() for path in needed):
        _fit(recipe, folder, wanted, say)
    bridge = Bridge.load(files[0])
    return bridge, Bridge.load(files[1]) if len(files) > 1 else None


def _fit(recipe: LiftRecipe, folder: Path, wanted: list[str], say: Say) -> None:
    from atlas_jax.models import load_model

    bridge, corpus = recipe.bridge, recipe.corpus
    count = -(-bridge.pairs // bridge.per_text)
    say(f"{count:,} passages of {corpus.source}")
    texts: Texts = read_passages(
        corpus.source, count, corpus.characters, corpus.of_a_document, corpus.split
    )
    sides = [
        ModelSide(load_model(name, bridge.dtype), site)
        for name, site in (
            (bridge.source, bridge.source_site),
            (bridge.target, bridge.target_site),
        )
    ]
    pairing = Pairing(bridge.min_left, bridge.per_text, bridge.max_tokens, pooling=bridge.pooling)
    choose = bridge.choose if bridge.choose in ("kfold", "gcv") else float(bridge.choose)
    for name in wanted:
        say(f"pairs for the {name} ({asdict(pairing)})")
        reader = PairReader(sides[0], sides[1], texts, pairing)
        moments = folder / f"{name}.moments.safetensors"
        found = read_moments(
            reader, bridge.rows, bridge.folds, path=moments, shuffle=name == "shuffled"
        )
        solve_bridge(found, Ridge(choose=choose)).save(folder / f"{name}.safetensors")
    for side, name in zip(sides, _SIDES, strict=True):
        background = record_background(
            side.model, side.site, texts[:_BACKGROUND], min_left=bridge.min_left
        )
        background.save(folder / f"{name}.background.safetensors")


def _speaker(
    recipe: LiftRecipe, side: VerbalizerSource, background: Path, bridge: Bridge | None = None
) -> Verbalizer:
    overrides: dict[str, Any] = {"model": side.reads} if side.reads else {}
    made = load_verbalizer(
        side.id,
        background=Background.load(background),
        bridge=bridge,
        dtype=side.dtype,
        revision=side.revision or None,
        max_new_tokens=recipe.lift.max_new_tokens,
        part=recipe.lift.part,
        **overrides,
    )
    if made.description.block != side.block:
        raise InputError(
            f"Expected {side.id} to read block {side.block}, its description says "
            f"{made.description.block}."
        )
    return made
