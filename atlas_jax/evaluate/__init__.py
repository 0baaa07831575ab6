"""Evaluation: how faithfully a translation carries concepts from the atlas to the subject."""

from atlas_jax.evaluate.ranking import Interval, auroc, average_precision, mean_interval
from atlas_jax.evaluate.translation_quality import QualityReport, evaluate_translation

__all__ = [
    "Interval",
    "QualityReport",
    "auroc",
    "average_precision",
    "evaluate_translation",
    "mean_interval",
]
