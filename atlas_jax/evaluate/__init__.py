"""Evaluation: how faithfully a translation carries concepts from the atlas to the subject."""

from atlas_jax.evaluate.ranking import auroc, average_precision, ranking_quality
from atlas_jax.evaluate.significance import (
    Interval,
    holm,
    mean_interval,
    paired_tests,
    sign_flip_test,
)
from atlas_jax.evaluate.translation_quality import QualityReport, evaluate_translation

__all__ = [
    "Interval",
    "QualityReport",
    "auroc",
    "average_precision",
    "evaluate_translation",
    "holm",
    "mean_interval",
    "paired_tests",
    "ranking_quality",
    "sign_flip_test",
]
