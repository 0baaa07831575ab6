"""What a lift takes: FLOPs, bytes and downloads of every stage, and whether all can be read."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_jax.pipeline.access import Access, look
from atlas_jax.pipeline.lift_recipe import LiftRecipe, VerbalizerSource
from atlas_jax.pipeline.plan import Cost, Shape, shape_of
from atlas_jax.verbalize.washout_comparison import ANGLES

_PROMPT, _TAGS = 160, 20
"""Tokens of a released verbalizer's prompt, and of its tags."""
_AUTOENCODER = 1e9
"""Bytes, where its size is not known: 65,536 features of width 3,584 in float16 are 0.94 GB."""


def plan_lift(recipe: LiftRecipe) -> list[Cost]:
    """The cost of every stage, in their order.

    Raises:
        InputError: a model whose shape is not known.
    """
    return list(_costs(recipe))


def check_lift_access(recipe: LiftRecipe) -> list[Access]:
    """Each model, autoencoder and corpus of a recipe, and whether it can be had."""
    return list(_checks(recipe))


def _costs(recipe: LiftRecipe) -> Iterator[Cost]:
    bridge, lift = recipe.bridge, recipe.lift
    source, target = shape_of(bridge.source), shape_of(bridge.target)
    sides = recipe.verbalizers.native, recipe.verbalizers.foreign
    speakers = [_speaker(side) for side in sides]
    shapes = (source, target, *speakers)
    download = 1e9 * sum(shape.gigabytes for shape in shapes) + _AUTOENCODER
    yield Cost("models", "two models, two verbalizers, an autoencoder", download=download)
    texts = -(-bridge.pairs // bridge.per_text)
    tokens = min(bridge.max_tokens, recipe.corpus.characters / 4)
    reading = sum(
        shape.flops(1 + int(site.split(".")[1]))
        for shape, site in ((source, bridge.source_site), (target, bridge.target_site))
    )
    times = 2 if lift.shuffled_map else 1
    p, q = source.d, target.d
    sums = 2.0 * bridge.pairs * p * (p + q)
    solving = (bridge.folds + 3) * (9.0 * p**3 + 4.0 * p**2 * q)
    yield Cost("corpus", f"{texts:,} passages", stored=float(texts * recipe.corpus.characters))
    yield Cost(
        "bridge",
        f"{bridge.pairs:,} pairs of tokens, {p:,} -> {q:,}, {bridge.folds} folds, {times} maps",
        flops=times * (texts * tokens * reading + sums + solving),
        stored=times * (8.0 * (2 * bridge.folds) * p * (p + q) + 4.0 * (3 * p * q + p * p)),
    )
    native, foreign = explanations(recipe)
    length = _PROMPT + _TAGS + lift.max_new_tokens
    flops = native * length * _writes(speakers[0]) + foreign * length * _writes(speakers[1])
    yield Cost("explain", f"{native:,} native and {foreign:,} foreign explanations", flops=flops)
    yield Cost("lift", f"{lift.draws:,} resamples, {lift.permutations:,} permutations")


def explanations(recipe: LiftRecipe) -> tuple[int, int]:
    """How many explanations are written natively, and by the foreign verbalizer; where B and C are
    compared, each of their streams counts."""
    lift, n = recipe.lift, len(recipe.features.chosen) or recipe.features.count
    draws = 1 + (lift.samples if lift.samples > 1 else 0)
    directions = 2 * n + lift.random * len(lift.families) + (n if lift.shuffled_map else 0)
    washouts = (3 + len(ANGLES) + 2 + 16) * n if recipe.washout.sweep else 0
    return n * draws, directions * draws + washouts * (draws - 1 if draws > 1 else 1)


def _speaker(side: VerbalizerSource) -> Shape:
    return shape_of(side.id)


def _writes(shape: Shape) -> float:
    return shape.flops(shape.layers, logits=True)


def _checks(recipe: LiftRecipe) -> Iterator[Access]:
    yield look("source", recipe.bridge.source, "model")
    yield look("target", recipe.bridge.target, "model")
    yield look("atlas", recipe.features.sae, "model")
    yield look("native verbalizer", recipe.verbalizers.native.id, "model")
    yield look("foreign verbalizer", recipe.verbalizers.foreign.id, "model")
    from atlas_jax.corpus.sources import kind_of

    corpus = recipe.corpus.source
    kind = kind_of(corpus)
    if kind in ("packages", "local"):
        yield Access("corpus", corpus, "can be downloaded" if kind == "packages" else "here")
    else:
        yield look("corpus", corpus, "dataset")
