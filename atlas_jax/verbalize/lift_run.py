"""The lift of some features: native and foreign explanations, controls, nulls, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.errors import InputError
from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.lift import (
    bootstrap_lift,
    bootstrap_mean,
    lift_dc,
    lift_rand,
    lift_spec,
    noise_ceiling,
    permutation_test,
    retrieval,
    similarity,
    topic_clusters,
)
from atlas_jax.verbalize.quirks import quirk_figures, round_trip
from atlas_jax.verbalize.random_directions import FAMILIES, random_directions
from atlas_jax.verbalize.reconstructor import Reconstructor
from atlas_jax.verbalize.said import Said, embed_said
from atlas_jax.verbalize.verbalizer import Explanation, Verbalizer
from atlas_jax.verbalize.washout import Washout
from atlas_jax.verbalize.washout_comparison import compare_washouts

JOURNAL = "explanations.jsonl"
"""Of a lift's folder: what verbalizers wrote, for a run that goes on."""


@dataclass(frozen=True)
class LiftPlan:
    """What is measured.

    Attributes:
        washout: of the foreign verbalizer and of the native one.
        native_washout: of the native one, where it differs.
        samples: explanations of each direction; 1 is greedy.
        temperature: of more samples than one.
        random: directions of each random family.
        families: of random directions.
        draws: of the bootstrap.
        permutations: of the permutation test.
        clusters: topics within which native texts change hands; 0: no such test.
        sweep: washouts to compare, by name; the first one is what the others are compared with.
        margin: by how much lift and nuance may be lower without counting as lost.
        seed: of all that is drawn.
    """

    washout: Washout = field(default_factory=Washout)
    native_washout: Washout | None = None
    samples: int = 1
    temperature: float = 0.7
    random: int = 100
    families: tuple[str, ...] = FAMILIES
    draws: int = 2000
    permutations: int = 9999
    clusters: int = 0
    sweep: Mapping[str, Washout] = field(default_factory=dict)
    margin: float = 0.02
    seed: int = 0


def measure_lift(
    directions: Float[np.ndarray, "n p"],
    native: Verbalizer | Sequence[str],
    foreign: Verbalizer,
    bridge: Bridge,
    embedder: Any,
    plan: LiftPlan | None = None,
    names: Sequence[str] = (),
    shuffled: Bridge | None = None,
    reconstructor: Reconstructor | None = None,
) -> dict[str, Any]:
    """Explains features natively and through the bridge, and compares.

    Features and bridge are held fixed in all intervals: they say how far other features of this
    kind would differ, not other documents.

    Args:
        directions: decoder rows of the source, (n, p).
        native: the source's verbalizer; or one text for each feature, such as an atlas' labels.
        foreign: the target's verbalizer.
        bridge: between the two.
        embedder: texts to unit vectors (`SentenceEmbedder`).
        plan: what is measured.
        names: of the features.
        shuffled: a bridge fitted on pairs in a wrong order (`shuffled_bridge`), whose lift must be
            nothing; default: left out.
        reconstructor: of the target, for the round trip Q7; needs the verbalizer's background.

    Returns:
        JSON-able: plan, figures, features.

    Raises:
        InputError: a verbalizer that does not read the bridge's target, or too few features.
    """
    plan = plan or LiftPlan()
    foreign.check(bridge)
    if len(directions) < 3:
        raise InputError(f"Expected at least three features, got {len(directions)}.")
    how: dict[str, Any] = {
        "samples": plan.samples,
        "temperature": plan.temperature if plan.samples > 1 else 0.0,
        "seed": plan.seed,
    }
    if isinstance(native, Verbalizer):
        washout = plan.native_washout or plan.washout
        native_said: Said = native.explain_all(directions, washout, **how)
    else:
        if len(native) != len(directions):
            raise InputError(
                f"Expected a native text for each of {len(directions)} features, got {len(native)}."
            )
        native_said = [[Explanation(text, text, True, float("nan"))] for text in native]

    def say(rows: np.ndarray) -> Said:
        return foreign.explain_all(rows, plan.washout, **how)

    mapped = bridge.directions(directions)
    foreign_said = say(mapped)
    e_native, e_foreign = (embed_said(embedder, said) for said in (native_said, foreign_said))
    s = similarity(e_foreign, e_native)
    controls: dict[str, Any] = {}
    per_feature: dict[str, np.ndarray] = {"lift_spec": lift_spec(s), "lift_dc": lift_dc(s)}
    for family in plan.families:
        rows = random_directions(bridge, family, plan.random, plan.seed)
        random = similarity(embed_said(embedder, say(rows)), e_native)
        values = lift_rand(s, random)
        per_feature.setdefault("lift_rand", values)
        controls[family] = bootstrap_mean(values, plan.draws, plan.seed)._asdict()
    top, reciprocal = retrieval(s)
    nulls = {
        "sign_flip": _null(similarity(embed_said(embedder, say(-mapped)), e_native), plan),
        "swapped": _null(s[:, _others(len(s), plan.seed)], plan),
    }
    if shuffled is not None:
        said = say(shuffled.directions(directions))
        nulls["shuffled_map"] = _null(similarity(embed_said(embedder, said), e_native), plan)
    figures: dict[str, Any] = {
        "lift_spec": bootstrap_lift(s, plan.draws, plan.seed)._asdict(),
        "lift_rand": controls,
        "lift_dc": bootstrap_mean(per_feature["lift_dc"], plan.draws, plan.seed)._asdict(),
        "top1": float(top.mean()),
        "mrr": float(reciprocal.mean()),
        "chance": 1 / len(s),
        "own_cosine": float(np.diag(s).mean()),
        "noise_ceiling": noise_ceiling(e_native),
        "permutation": permutation_test(s, plan.permutations, plan.seed)._asdict(),
        "nulls": nulls,
        "quirks": quirk_figures(foreign, foreign_said, e_foreign, s, directions, embedder),
        "common_component": bridge.common_component(),
    }
    ceiling = figures["noise_ceiling"]
    figures["normalised"] = (
        figures["lift_spec"]["mean"] / ceiling if np.isfinite(ceiling) and ceiling else None
    )
    if plan.clusters > 1:
        groups = topic_clusters(e_native, plan.clusters, plan.seed)
        test = permutation_test(s, plan.permutations, plan.seed, groups)
        figures["permutation_within_topics"] = test._asdict()
    per_feature |= {
        "top1": top,
        "t": bridge.reliability(directions),
        "rho": bridge.shrinkage(directions),
        "split_half": bridge.split_half(directions),
        "top_share": bridge.top_share(directions),
        "length_ratio": np.linalg.norm(bridge.mapped(directions), axis=1)
        / np.linalg.norm(directions, axis=1),
    }
    if reconstructor is not None and foreign.background is not None:
        rebuilt = reconstructor.rebuild([row[0].text for row in foreign_said])
        base = foreign.background.direction
        per_feature["round_trip"] = round_trip(rebuilt, mapped, base)
        found = bootstrap_mean(per_feature["round_trip"], plan.draws, plan.seed)
        figures["round_trip"] = found._asdict()
    features = [
        {
            "name": names[i] if names else str(i),
            "native": [e.text for e in native_said[i]],
            "foreign": [e.text for e in foreign_said[i]],
            "complete": foreign_said[i][0].complete,
            "cosine_to_background": _plain(foreign_said[i][0].cosine),
            **{key: float(values[i]) for key, values in per_feature.items()},
        }
        for i in range(len(s))
    ]
    compared = {}
    if plan.sweep:
        compared = compare_washouts(
            mapped, directions, e_native, foreign, embedder, plan.sweep, how,
            plan.margin, plan.draws, plan.seed,
        )  # fmt: skip
    background = foreign.background
    return _plain(
        {
            "washouts": compared,
            "plan": asdict(plan),
            "bridge": bridge.meta,
            "foreign": repr(foreign),
            "background": background.about() if background is not None else None,
            "figures": figures,
            "features": features,
        }
    )


def _others(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """For each feature another one, in a random ring: none is its own."""
    ring = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, np.int64)
    other[ring] = np.roll(ring, 1)
    return other


def _null(s: np.ndarray, plan: LiftPlan) -> dict[str, float]:
    return bootstrap_lift(s, plan.draws, plan.seed)._asdict()


def _plain(value: Any) -> Any:
    """Values that JSON holds: NaN becomes None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
