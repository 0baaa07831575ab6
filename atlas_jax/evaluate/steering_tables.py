"""The paper's tables of steering: 1 (neurons found), 2 (texts steered) and 5 (faithfulness)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax.evaluate.faithfulness import best_strength, gains, shares
from atlas_jax.evaluate.steering_report import RANDOM, SteeringReport


def identification_rows(
    concept: str, hits: Sequence[Any], samples: int = 1
) -> list[dict[str, Any]]:
    """Table 1: the neurons that a query found, each with its most activating held-out text."""
    return [
        {
            "concept": concept,
            "feature": f"{hit.site} #{hit.feature}",
            "score": hit.score,
            "activation": sample.activation,
            "text": sample.text,
        }
        for hit in hits
        for sample in hit.samples[:samples]
    ]


def steered_examples(
    report: SteeringReport, method: str, place: str, prompt: int | None = None
) -> list[dict[str, Any]]:
    """Table 2: for each query the unsteered text and the one at the query's best strength.

    Args:
        report: an evaluation.
        method: which.
        place: where.
        prompt: index; default: the first whose text the judge says expresses the concept, so
            such rows are chosen for what they show. A query that no strength moves is shown at the
            strongest one.
    """
    m, p, ratings = report._find(method, place, None)
    lambdas = np.array(report.strengths)
    unsteered = report.strengths.index(0.0)
    r = shares(ratings[m, p], np.ones((1, len(report.prompts))))[0]
    best = best_strength(gains(r, unsteered), lambdas)
    found = []
    for q, query in enumerate(report.queries):
        i = int(best[q]) if best[q] != unsteered else len(lambdas) - 1
        says = ratings[m, p, q, i] == 2
        s = (int(np.argmax(says)) if says.any() else 0) if prompt is None else prompt
        found.append(
            {
                "query": query,
                "prompt": report.prompts[s],
                "strength": report.strengths[i],
                "rating": int(ratings[m, p, q, i, s]),
                "unsteered": report.texts[m, p, q, unsteered, s],
                "steered": report.texts[m, p, q, i, s],
            }
        )
    return found


def steering_cells(report: SteeringReport, judge: str | None = None) -> list[list[str]]:
    """Table 5 as cells: a row for each method, f and delta a at each place, `random` first."""
    rows = {(row["method"], row["place"]): row for row in report.rows(judge)}
    methods = sorted(report.methods, key=lambda name: name != RANDOM)
    return [
        [
            method,
            *(
                text
                for place in report.places
                for text in (
                    _cell(rows[method, place], "faithfulness", 1),
                    _cell(rows[method, place], "delta_activation", 2),
                )
            ),
        ]
        for method in methods
    ]


def steering_markdown(report: SteeringReport, judge: str | None = None) -> str:
    """Table 5 in Markdown, with what it was measured on below it."""
    head = ["method", *(f"{place}: {name}" for place in report.places for name in ("f", "Δa"))]
    lines = [head, ["---"] * len(head), *steering_cells(report, judge)]
    note = (
        f"f in per cent (eq. 5), Δa at the same strength; mean over {len(report.queries)} queries "
        f"with 95 % interval; {len(report.prompts)} prompts, strengths "
        f"{', '.join(f'{s:g}' for s in report.strengths)}, judge: {judge or report.judge}."
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}\n"


def _cell(row: dict[str, Any], metric: str, digits: int) -> str:
    mean, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(mean):
        return "-"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
