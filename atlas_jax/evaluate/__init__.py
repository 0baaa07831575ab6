"""Evaluation: how faithfully a translation carries concepts from the atlas to the subject."""

from atlas_jax.evaluate.judges import JUDGES, Judge
from atlas_jax.evaluate.judges_agreement import Agreement, agreement, cohen_kappa
from atlas_jax.evaluate.ranking import Interval, auroc, average_precision, mean_interval
from atlas_jax.evaluate.steering import evaluate_steering, query_directions
from atlas_jax.evaluate.steering_protocol import paper_protocol, protocol_queries
from atlas_jax.evaluate.steering_report import SteeringReport
from atlas_jax.evaluate.translation_quality import QualityReport, evaluate_translation

__all__ = [
    "JUDGES",
    "Agreement",
    "Interval",
    "Judge",
    "QualityReport",
    "SteeringReport",
    "agreement",
    "auroc",
    "average_precision",
    "cohen_kappa",
    "evaluate_steering",
    "evaluate_translation",
    "mean_interval",
    "paper_protocol",
    "protocol_queries",
    "query_directions",
]
