"""Translation quality: does a concept's translated direction rank the samples as the atlas does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from atlas_jax.errors import InputError
from atlas_jax.evaluate.mesh_ranking import MeshRanking
from atlas_jax.evaluate.ranking import Ranking, ranking_quality
from atlas_jax.evaluate.scoring import count_positives, labels_of, score_samples
from atlas_jax.evaluate.significance import Interval, mean_interval, paired_tests
from atlas_jax.progress import track
from atlas_jax.translate.stored import norms_of_rows

RANDOM = "random"
METRICS = ("auroc", "ap")


@runtime_checkable
class HasMatrix(Protocol):
    """A translation: anything with T (d_s, d_c)."""

    @property
    def matrix(self) -> Any: ...


@dataclass(frozen=True)
class QualityReport:
    """Translation quality of each method, feature by feature.

    Attributes:
        features: the atlas features whose one-hot queries were evaluated.
        positives: for each, how many of the samples activate it.
        values: {method: {"auroc" | "ap": (q,)}}; NaN where a feature has one class. The method
            `random` holds random directions under the same scorer.
        n_samples: held-out samples.
        n_eligible: features of the whole atlas with enough positives to be drawn.
        n_left_out: the atlas's other features.
        min_positive: the fewest positives of a drawn feature.
        seed: of the draw, the random directions and the bootstrap.
        cosine: whether each sample's score was divided by the norms.
    """

    features: tuple[int, ...]
    positives: np.ndarray
    values: dict[str, dict[str, np.ndarray]]
    n_samples: int
    n_eligible: int
    n_left_out: int
    min_positive: int
    seed: int
    cosine: bool

    @property
    def base_rate(self) -> float:
        """Mean share of positives over the features with both classes: the AP of no information."""
        both = (self.positives > 0) & (self.positives < self.n_samples)
        return float(self.positives[both].mean() / self.n_samples) if both.any() else float("nan")

    @property
    def one_class(self) -> tuple[int, ...]:
        """Features that no sample, or every sample, activates: reported, not averaged."""
        single = (self.positives == 0) | (self.positives == self.n_samples)
        return tuple(f for f, alone in zip(self.features, single, strict=True) if alone)

    def mean(self, method: str, metric: str) -> Interval:
        """Mean of one metric over the features, with its interval."""
        return mean_interval(self.values[method][metric], self.seed)

    def difference(self, method: str, baseline: str, metric: str) -> Interval:
        """Mean of the paired difference, method minus baseline, feature by feature."""
        gap = self.values[method][metric] - self.values[baseline][metric]
        return mean_interval(gap, self.seed)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each method: means, interval ends, differences from the baselines."""
        return [self._row(method) for method in self.values]

    def tests(self, metric: str) -> list[dict[str, Any]]:
        """Every two methods compared feature by feature; see `paired_tests`."""
        return paired_tests({name: by[metric] for name, by in self.values.items()}, self.seed)

    def _row(self, method: str) -> dict[str, Any]:
        row: dict[str, Any] = {"method": method}
        for metric in METRICS:
            row |= _spread(metric, self.mean(method, metric))
            for baseline in (RANDOM, "procrustes"):
                if baseline in self.values and baseline != method:
                    gap = self.difference(method, baseline, metric)
                    row |= _spread(f"{metric}_minus_{baseline}", gap)
        return row

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; NaN becomes None."""
        numbers = {
            "n_samples": self.n_samples,
            "n_features": len(self.features),
            "n_eligible": self.n_eligible,
            "n_left_out": self.n_left_out,
            "one_class": list(self.one_class),
            "min_positive": self.min_positive,
            "seed": self.seed,
            "cosine": self.cosine,
            "base_rate": _plain(self.base_rate),
            "methods": [{k: _plain(v) for k, v in row.items()} for row in self.rows()],
            "tests": {
                metric: [{k: _plain(v) for k, v in row.items()} for row in self.tests(metric)]
                for metric in METRICS
            },
            "features": list(self.features),
            "positives": [int(count) for count in self.positives],
        }
        numbers["per_feature"] = {
            method: {metric: [_plain(v) for v in array] for metric, array in by.items()}
            for method, by in self.values.items()
        }
        return numbers


def evaluate_translation(
    translations: Mapping[str, HasMatrix],
    subject: Any,
    atlas: Any,
    *,
    features: int | Sequence[int] = 100,
    seed: int = 0,
    random_directions: bool = True,
    cosine: bool = False,
    min_positive: int = 10,
    mesh: Mesh | None = None,
) -> QualityReport:
    """Ranks held-out samples by translated one-hot queries, against the atlas's own labels.

    For atlas feature k: label_i = A_c[i, k] > 0, score_i = A_s[i] . s with s = T^ e_k   (eq. 3),
    T^ = T with unit rows. AUROC and AP over the samples, then means over the features.

    Args:
        translations: by name of the method.
        subject: A_s (N, d_s): an array, or a store's site (`shape`, `batches(size)`).
        atlas: A_c (N, d_c) of the same samples in the same order.
        features: how many to draw from those with both classes and `min_positive` positives, or
            the features themselves.
        seed: of the draw, the random directions and the bootstrap.
        random_directions: also score Gaussian directions, as the baseline `random`.
        cosine: divide by the norms of sample and direction.
        min_positive: the fewest held-out samples that activate a drawn feature.
        mesh: devices to spread over: see `MeshRanking`. Of several processes all call this, and
            all get the report.

    Raises:
        InputError: sides of unlike length, a translation of another width, a feature the atlas
            does not have, no eligible feature, or activations that are not finite.
    """
    _check(translations, subject, atlas)
    spread = None if mesh is None else MeshRanking(mesh)
    counts = count_positives(atlas) if spread is None else spread.count_positives(atlas)
    n = int(subject.shape[0])
    eligible = np.flatnonzero((counts >= max(min_positive, 1)) & (counts < n))
    chosen = _choose(features, eligible, len(counts), seed, min_positive)
    directions = {name: _directions(t.matrix, chosen) for name, t in translations.items()}
    if random_directions:
        shape = (int(subject.shape[1]), len(chosen))
        draw = np.random.default_rng([seed, 1]).standard_normal(shape)
        directions[RANDOM] = draw.astype(np.float32)
    ranked = (_ranked if spread is None else spread.rank)(
        subject, atlas, chosen, directions, cosine
    )
    values = {name: found._asdict() for name, found in ranked.items()}
    return QualityReport(
        features=tuple(int(f) for f in chosen),
        positives=counts[chosen],
        values=values,
        n_samples=n,
        n_eligible=len(eligible),
        n_left_out=len(counts) - len(eligible),
        min_positive=min_positive,
        seed=seed,
        cosine=cosine,
    )


def _check(translations: Mapping[str, HasMatrix], subject: Any, atlas: Any) -> None:
    if not translations:
        raise InputError("Expected at least one translation to evaluate, got none.")
    if RANDOM in translations:
        raise InputError(f"'{RANDOM}' is the name of the baseline: call this translation another.")
    if subject.shape[0] != atlas.shape[0]:
        raise InputError(
            f"Expected as many subject samples as atlas samples, got {subject.shape[0]} and "
            f"{atlas.shape[0]}. Capture both from the same texts."
        )
    expected = (int(subject.shape[1]), int(atlas.shape[1]))
    for name, translation in translations.items():
        if tuple(translation.matrix.shape) != expected:
            raise InputError(
                f"Expected a translation of shape {expected} for these activations, '{name}' has "
                f"{tuple(translation.matrix.shape)}. Was it fitted on another site or atlas?"
            )


def _choose(
    features: int | Sequence[int], eligible: np.ndarray, width: int, seed: int, least: int
) -> np.ndarray:
    if not isinstance(features, int):
        chosen = np.asarray(features, np.int64)
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= width:
            raise InputError(
                f"Expected features from 0 to {width - 1}, got "
                f"{[int(f) for f in chosen if not 0 <= f < width] or 'none'}."
            )
        return chosen
    if features < 1 or not len(eligible):
        raise InputError(
            f"Expected at least one feature to evaluate, got {features} to draw from "
            f"{len(eligible)} with at least {least} positive and one negative sample. "
            "Use more texts, or lower min_positive."
        )
    size = min(features, len(eligible))
    return np.sort(np.random.default_rng([seed, 0]).choice(eligible, size, replace=False))


def _ranked(
    subject: Any,
    atlas: Any,
    chosen: np.ndarray,
    directions: Mapping[str, Float[np.ndarray, "ds q"]],
    cosine: bool,
) -> dict[str, Ranking]:
    labels = labels_of(atlas, chosen)
    scores = score_samples(subject, np.concatenate(list(directions.values()), axis=1), cosine)
    return {
        name: ranking_quality(scores[:, i * len(chosen) : (i + 1) * len(chosen)], labels)
        for i, name in enumerate(track(list(directions), "ranking samples"))
    }


def _directions(matrix: Any, chosen: np.ndarray) -> Float[np.ndarray, "ds q"]:
    """Column k of T with unit rows, for each chosen k; a zero row stays zero."""
    matrix = np.asarray(matrix)
    columns = matrix[:, chosen] / norms_of_rows(matrix, len(matrix))[:, None]
    return columns.astype(np.float32)


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {
        name: interval.mean,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    return None if np.isnan(value) else float(value)
