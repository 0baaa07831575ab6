"""Retrieval: is a subject feature found again by what its own texts activate in the atlas?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from atlas_jax.errors import InputError
from atlas_jax.evaluate.concept_sets import ConceptSets
from atlas_jax.evaluate.significance import Interval, mean_interval, paired_tests
from atlas_jax.evaluate.translation_quality import HasMatrix
from atlas_jax.translate.stored import norms_of_rows

METRICS = ("mrr", "mpp")


class Retrieval(NamedTuple):
    """What `retrieval_quality` finds of each query.

    Attributes:
        mrr: the query's term of eq. 10.
        mpp: the query's term of eq. 11.
        tied: whether another feature has the same score as the right one.
    """

    mrr: Float[np.ndarray, " m"]
    mpp: Float[np.ndarray, " m"]
    tied: Bool[np.ndarray, " m"]


def retrieval_quality(scores: Float[np.ndarray, "m m"]) -> Retrieval:
    """Reciprocal rank and predicted probability of the right feature among m.

    MRR_i = 1 / (1 + #{k : s_k > s_i})                      (a term of eq. 10)
    MPP_i = exp(z_i) / sum_k exp(z_k), z = (s - mean) / std  (a term of eq. 11)

    Eq. 10 as it stands gives a translation whose rows are all equal the highest mark. Here ties are
    broken at random: MRR_i is the mean of 1 / rank over the places that the tied features share, so
    that equal scores give what chance gives. Where all scores are equal z is 0.

    Args:
        scores: row i holds what query i gives each feature; the right one is feature i.
    """
    s = np.asarray(scores, np.float64)
    right = np.diagonal(s)[:, None]
    spread = s.std(axis=1, keepdims=True)
    z = (s - s.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    weight = np.exp(z - z.max(axis=1, keepdims=True))
    above, equal = np.count_nonzero(s > right, axis=1), np.count_nonzero(s == right, axis=1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, s.shape[1] + 1))])
    return Retrieval(
        (harmonic[above + equal] - harmonic[above]) / equal,
        np.diagonal(weight) / weight.sum(axis=1),
        equal > 1,
    )


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval of each method, feature by feature.

    Attributes:
        features: the subject features that were kept, queries and candidates alike.
        values: {method: {"mrr" | "mpp": (m,)}}.
        tied: by method, how many queries have a tie at the right feature.
        n_sets: sets there were before the validity rule.
        validity: the rule.
        n_valid: sets that each rule would keep.
        size: texts of a set.
        source: where the sets come from.
        seed: of the bootstrap and the permutations.
    """

    features: tuple[int, ...]
    values: dict[str, dict[str, np.ndarray]]
    tied: dict[str, int]
    n_sets: int
    validity: str
    n_valid: dict[str, int]
    size: int
    source: str
    seed: int

    @property
    def random_mrr(self) -> float:
        """What random scores give: H(m) / m."""
        m = len(self.features)
        return float((1.0 / np.arange(1, m + 1)).sum() / m)

    @property
    def random_mpp(self) -> float:
        """What random scores give: 1 / m."""
        return 1.0 / len(self.features)

    def mean(self, method: str, metric: str) -> Interval:
        """Mean of one metric over the features, with its interval."""
        return mean_interval(self.values[method][metric], self.seed)

    def tests(self, metric: str) -> list[dict[str, Any]]:
        """Every two methods compared feature by feature; see `paired_tests`."""
        return paired_tests({name: by[metric] for name, by in self.values.items()}, self.seed)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each method: means, interval ends, standard deviations, ties."""
        rows = []
        for method, by in self.values.items():
            row: dict[str, Any] = {"method": method, "tied": self.tied[method]}
            for metric in METRICS:
                mean, low, high = self.mean(method, metric)
                row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
                row[f"{metric}_std"] = float(by[metric].std())
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {
            "n_features": len(self.features),
            "n_sets": self.n_sets,
            "validity": self.validity,
            "n_valid": self.n_valid,
            "texts_of_a_set": self.size,
            "source": self.source,
            "seed": self.seed,
            "random": {"mrr": self.random_mrr, "mpp": self.random_mpp},
            "methods": self.rows(),
            "tests": {metric: self.tests(metric) for metric in METRICS},
            "features": list(self.features),
            "per_feature": {
                method: {metric: by[metric].tolist() for metric in METRICS}
                for method, by in self.values.items()
            },
        }


def evaluate_retrieval(
    translations: Mapping[str, HasMatrix],
    sets: ConceptSets,
    *,
    validity: str = "sets",
    seed: int = 0,
) -> RetrievalReport:
    """Looks for each subject feature by the mean atlas activations of its own texts.

    q_i = mean over X(i) of A_c; s = T^ q_i / ||q_i||, eq. 3, at the features that are evaluated;
    then eqs. 10 and 11 with those features as candidates, as the paper's random baselines
    H(454)/454 and 1/454 imply.

    Args:
        translations: by name of the method, T (d_s, d_c).
        sets: each feature's texts, as both models read them.
        validity: which sets are kept: `sets` (of all sets, its own activates the feature most),
            `features` (of all evaluated features, it is the one that its set activates most, in
            units of each feature's mean over the sets), or `none`.
        seed: of the bootstrap and the permutations.

    Raises:
        InputError: an unknown rule, translations of another width, or no two features left.
    """
    if not translations:
        raise InputError("Expected at least one translation to evaluate, got none.")
    rules = sets.valid()
    if validity not in rules:
        raise InputError(f"Expected validity {', '.join(rules)}, got '{validity}'.")
    kept = np.flatnonzero(rules[validity] & sets.queries.any(axis=1))
    if len(kept) < 2:
        raise InputError(
            f"Expected at least two features with valid sets, {len(kept)} of {len(sets.features)} "
            f"are left by the rule '{validity}'. Use more features or texts, or another rule."
        )
    features, queries = sets.features[kept], sets.queries[kept].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    values, tied = {}, {}
    for name, translation in translations.items():
        scores = queries @ _unit_rows(name, translation.matrix, features, queries.shape[1]).T
        found = retrieval_quality(scores)
        values[name] = {"mrr": found.mrr, "mpp": found.mpp}
        tied[name] = int(found.tied.sum())
    return RetrievalReport(
        features=tuple(int(f) for f in features),
        values=values,
        tied=tied,
        n_sets=len(sets.features),
        validity=validity,
        n_valid={rule: int(mask.sum()) for rule, mask in rules.items()},
        size=sets.size,
        source=sets.source,
        seed=seed,
    )


def _unit_rows(
    name: str, matrix: np.ndarray, features: Int[np.ndarray, " m"], width: int
) -> Float[np.ndarray, "m dc"]:
    """T^ at some features; a zero row stays zero."""
    if matrix.shape[1] != width or matrix.shape[0] <= features.max():
        raise InputError(
            f"Expected a translation of at least {features.max() + 1} x {width} for these sets, "
            f"'{name}' has {tuple(matrix.shape)}. Was it fitted on another site or atlas?"
        )
    rows = np.asarray(matrix)[features]
    return (rows / norms_of_rows(rows, len(rows))[:, None]).astype(np.float32)
