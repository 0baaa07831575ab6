"""The result of a steering evaluation: faithfulness and change of activation, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int8

from atlas_jax.errors import InputError
from atlas_jax.evaluate.faithfulness import (
    activation_change,
    at_strength,
    faithfulness,
    held_out,
    shares,
)
from atlas_jax.evaluate.judges_agreement import Agreement, agreement
from atlas_jax.evaluate.significance import Interval, mean_interval

RANDOM = "random"
METRICS = ("faithfulness", "held_out", "delta_activation")
OVER = ("queries", "prompts", "both")
_DRAWS = 1000


@dataclass(frozen=True)
class SteeringReport:
    """Every text's ratings and activations, and what follows from them.

    Axes: methods, places (a site, or all of them combined), queries, strengths, prompts.

    Attributes:
        methods: their names; `random` is directions of equal norm.
        places: where was steered.
        queries: the concepts.
        strengths: lambda, one of them 0.
        prompts: what was continued.
        ratings: {judge: (M, P, Q, L, S)}: 0, 1, 2, or -1 where there is none.
        activations: (M, P, Q, L, S): mean activation of the query's atlas features in the text.
        texts: (M, P, Q, L, S): the continuations.
        judges: what each judge says of itself.
        settings: models, sampling, seed.
        left_out: {concept: why it was not evaluated}.
    """

    methods: tuple[str, ...]
    places: tuple[str, ...]
    queries: tuple[str, ...]
    strengths: tuple[float, ...]
    prompts: tuple[str, ...]
    ratings: Mapping[str, Int8[np.ndarray, "m p q l s"]]
    activations: Float[np.ndarray, "m p q l s"]
    texts: np.ndarray
    judges: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _lambdas(self) -> np.ndarray:
        return np.array(self.strengths, np.float64)

    @property
    def judge(self) -> str:
        """The first judge: whose ratings count where none is named."""
        return next(iter(self.ratings))

    def values(
        self, method: str, place: str, metric: str = "faithfulness", judge: str | None = None
    ) -> Float[np.ndarray, " queries"]:
        """One metric for each query; NaN where it does not exist.

        `faithfulness` is eq. 5 in per cent, `held_out` the same with the strength chosen on other
        prompts, `delta_activation` the change at the strength of eq. 5. A query that no strength
        moves has no such change, as in the paper.
        """
        every_prompt = np.ones((1, len(self.prompts)))
        return self._values(method, place, metric, judge, every_prompt)[0]

    def _values(
        self, method: str, place: str, metric: str, judge: str | None, weights: np.ndarray
    ) -> Float[np.ndarray, "draws queries"]:
        if metric not in METRICS:
            raise InputError(f"Expected a metric among {', '.join(METRICS)}, got '{metric}'.")
        m, p, ratings = self._find(method, place, judge)
        if metric == "held_out":
            return held_out(ratings[m, p], self._lambdas, weights)
        value, index = faithfulness(ratings[m, p], self._lambdas, weights)
        if metric == "faithfulness":
            return value
        change = activation_change(self.activations[m, p], self._lambdas, weights)
        moved = (self._lambdas[index] != 0) & ~np.isnan(value)
        return np.where(moved, at_strength(change, index), np.nan)

    def _find(self, method: str, place: str, judge: str | None) -> tuple[int, int, np.ndarray]:
        for name, known, what in (
            (method, self.methods, "method"),
            (place, self.places, "place"),
            (judge or self.judge, tuple(self.ratings), "judge"),
        ):
            if name not in known:
                raise InputError(f"Expected a {what} among {', '.join(known)}, got '{name}'.")
        places = self.methods.index(method), self.places.index(place)
        return *places, self.ratings[judge or self.judge]

    def mean(
        self,
        method: str,
        place: str,
        metric: str = "faithfulness",
        judge: str | None = None,
        over: str = "queries",
        baseline: str | None = None,
    ) -> Interval:
        """Mean over queries of a metric, or of its difference from a baseline, query by query.

        Args:
            method: which.
            place: where.
            metric: see `values`.
            judge: whose ratings; default: the first one's.
            over: what the bootstrap resamples: `queries`, `prompts` (the metric is then computed
                anew; a maximum over strengths moves up under resampling, so read `held_out`), or
                `both`.
            baseline: another method, such as `random`, under the same resamples.
        """
        seed = int(self.settings.get("seed", 0))
        names = [method] if baseline is None else [method, baseline]

        def gap(weights: np.ndarray) -> np.ndarray:
            parts = [self._values(name, place, metric, judge, weights) for name in names]
            return parts[0] if baseline is None else parts[0] - parts[1]

        s = len(self.prompts)
        plain = gap(np.ones((1, s)))[0]
        if over == "queries":
            return mean_interval(plain, seed)
        if over not in OVER:
            raise InputError(f"Expected over among {', '.join(OVER)}, got '{over}'.")
        rng = np.random.default_rng(seed)
        drawn = gap(rng.multinomial(s, np.full(s, 1 / s), _DRAWS).astype(np.float64))
        if over == "both":
            rows = rng.integers(len(self.queries), size=drawn.shape)
            drawn = np.take_along_axis(drawn, rows, axis=1)
        seen = ~np.isnan(drawn)
        sums, counts = np.where(seen, drawn, 0.0).sum(axis=1), seen.sum(axis=1)
        means = sums[counts > 0] / counts[counts > 0]
        kept = plain[~np.isnan(plain)]
        if not len(kept) or not len(means):
            return Interval(float("nan"), float("nan"), float("nan"))
        low, high = np.quantile(means, [0.025, 0.975])
        return Interval(float(kept.mean()), float(low), float(high))

    def rows(self, judge: str | None = None) -> list[dict[str, Any]]:
        """A flat row for each method and place: means, interval ends, gaps from `random`."""
        found = []
        for method in self.methods:
            for place in self.places:
                row: dict[str, Any] = {"method": method, "place": place}
                for metric in METRICS:
                    row |= _spread(metric, self.mean(method, place, metric, judge))
                    if RANDOM in self.methods and method != RANDOM:
                        gap = self.mean(method, place, metric, judge, baseline=RANDOM)
                        row |= _spread(f"{metric}_minus_random", gap)
                change = self.values(method, place, "delta_activation", judge)
                row["queries_moved"] = int((~np.isnan(change)).sum())
                found.append(row)
        return found

    def agreements(self) -> list[Agreement]:
        """Of every two judges, over all distinct texts and concepts."""
        names = list(self.ratings)
        flat = {name: self._distinct(name) for name in names}
        return [
            agreement(flat[a], flat[b], (a, b)) for i, a in enumerate(names) for b in names[i + 1 :]
        ]

    def _distinct(self, judge: str) -> list[int]:
        """The unsteered texts stand in many places, and count once."""
        found: dict[tuple[int, str], int] = {}
        for place, rating in np.ndenumerate(self.ratings[judge]):
            found[place[2], str(self.texts[place])] = int(rating)
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the texts, as JSON-able values; NaN becomes None."""
        every_prompt = np.ones((1, len(self.prompts)))
        per_query = []
        for m, method in enumerate(self.methods):
            for p, place in enumerate(self.places):
                change = activation_change(self.activations[m, p], self._lambdas, every_prompt)[0]
                r = {j: shares(x[m, p], every_prompt)[0] for j, x in self.ratings.items()}
                for q, query in enumerate(self.queries):
                    per_query.append(
                        {
                            "method": method,
                            "place": place,
                            "query": query,
                            "share": {j: _plain(x[q]) for j, x in r.items()},
                            "delta_activation": _plain(change[q]),
                            "faithfulness": {
                                j: _plain(self.values(method, place, judge=j)[q]) for j in r
                            },
                        }
                    )
        return {
            **self.settings,
            "queries": list(self.queries),
            "left_out": dict(self.left_out),
            "strengths": list(self.strengths),
            "prompts": list(self.prompts),
            "judges": [dict(judge) for judge in self.judges],
            "agreement": [pair.to_dict() for pair in self.agreements()],
            "unrated": {j: int((x < 0).sum()) for j, x in self.ratings.items()},
            "rows": {
                j: [{k: _plain(v) for k, v in row.items()} for row in self.rows(j)]
                for j in self.ratings
            },
            "over_prompts": [
                {"method": m, "place": p}
                | {
                    k: _plain(v)
                    for k, v in _spread(
                        "held_out", self.mean(m, p, "held_out", over="both")
                    ).items()
                }
                for m in self.methods
                for p in self.places
            ],
            "per_query": per_query,
        }


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, str | int):
        return value
    return None if np.isnan(value) else float(value)
