"""Evaluation: how faithfully a translation carries concepts from the atlas to the subject."""

from atlas_jax.evaluate.concept_sets import (
    ConceptSets,
    read_sets,
    sets_from_samples,
    sets_from_texts,
    write_sets,
)
from atlas_jax.evaluate.judges import JUDGES, Judge
from atlas_jax.evaluate.judges_agreement import Agreement, agreement, cohen_kappa
from atlas_jax.evaluate.ranking import auroc, average_precision, ranking_quality
from atlas_jax.evaluate.retrieval import RetrievalReport, evaluate_retrieval, retrieval_quality
from atlas_jax.evaluate.significance import (
    Interval,
    holm,
    mean_interval,
    paired_tests,
    sign_flip_test,
)
from atlas_jax.evaluate.steering import evaluate_steering, query_directions
from atlas_jax.evaluate.steering_protocol import paper_protocol, protocol_queries
from atlas_jax.evaluate.steering_report import SteeringReport
from atlas_jax.evaluate.translation_quality import QualityReport, evaluate_translation

__all__ = [
    "JUDGES",
    "Agreement",
    "ConceptSets",
    "Interval",
    "Judge",
    "QualityReport",
    "RetrievalReport",
    "SteeringReport",
    "agreement",
    "auroc",
    "average_precision",
    "cohen_kappa",
    "evaluate_retrieval",
    "evaluate_steering",
    "evaluate_translation",
    "holm",
    "mean_interval",
    "paired_tests",
    "paper_protocol",
    "protocol_queries",
    "query_directions",
    "ranking_quality",
    "read_sets",
    "retrieval_quality",
    "sets_from_samples",
    "sets_from_texts",
    "sign_flip_test",
    "write_sets",
]
