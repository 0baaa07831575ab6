"""Evaluation: how faithfully a translation carries concepts from the atlas to the subject."""

from atlas_jax.evaluate.concept_sets import (
    ConceptSets,
    read_sets,
    sets_from_samples,
    sets_from_texts,
    write_sets,
)
from atlas_jax.evaluate.ranking import auroc, average_precision, ranking_quality
from atlas_jax.evaluate.retrieval import RetrievalReport, evaluate_retrieval, retrieval_quality
from atlas_jax.evaluate.significance import (
    Interval,
    holm,
    mean_interval,
    paired_tests,
    sign_flip_test,
)
from atlas_jax.evaluate.translation_quality import QualityReport, evaluate_translation

__all__ = [
    "ConceptSets",
    "Interval",
    "QualityReport",
    "RetrievalReport",
    "auroc",
    "average_precision",
    "evaluate_retrieval",
    "evaluate_translation",
    "holm",
    "mean_interval",
    "paired_tests",
    "ranking_quality",
    "read_sets",
    "retrieval_quality",
    "sets_from_samples",
    "sets_from_texts",
    "sign_flip_test",
    "write_sets",
]
