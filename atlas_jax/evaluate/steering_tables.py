"""The paper's tables of steering: 1 (neurons found), 2 (texts steered) and 5 (faithfulness)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax.evaluate.faithfulness import best_strength, gains, shares
from atlas_jax.evaluate.paper import figures
from atlas_jax.evaluate.steering_report import RANDOM, SteeringReport
from atlas_jax.evaluate.tables import METHOD_NAMES, Table, interval_cell


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


def steering_tables(result: Mapping[str, Any], tests: bool = True) -> list[Table]:
    """Table 5, one for each judge, and the paper's own; tables 1 and 2 where `result` has them.

    Args:
        result: `SteeringReport.to_dict`; also `identified` (`identification_rows`) and `examples`
            (`method`, `place` and, as `rows`, `steered_examples`).
        tests: also the differences from random directions.
    """
    facts = (
        f"mean over {len(result['queries'])} queries with 95 % interval; {len(result['prompts'])} "
        f"prompts, strengths {', '.join(f'{s:g}' for s in result['strengths'])}"
    )
    tables = []
    for judge, rows in result["rows"].items():
        caption = (
            f"Steering: faithfulness f in per cent (eq. 5) and Δa, the change of the concept's "
            f"atlas features at the same strength; {facts}; judge: {judge}"
        )
        tables.append(_table(rows, caption, ""))
        if tests and RANDOM in {row["method"] for row in rows} and len(rows) > 1:
            caption = f"The same, less random directions under the same resamples; judge: {judge}"
            others = [row for row in rows if row["method"] != RANDOM]
            tables.append(_table(others, caption, f"_minus_{RANDOM}"))
    tables.append(_paper_table())
    if result.get("identified"):
        tables.append(_identified(result["identified"]))
    if result.get("examples"):
        tables.append(_steered(**result["examples"]))
    return tables


def _identified(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "Features found (table 1 of the paper): the best of all sites for each concept, and the "
        "held-out text that activates it most",
        ("Concept", "subject feature", "score", "activation", "text"),
        tuple(
            (
                row["concept"],
                row["feature"],
                f"{row['score']:.3f}",
                f"{row['activation']:.2f}",
                _line(row["text"]),
            )
            for row in rows
        ),
    )


def _steered(rows: Sequence[Mapping[str, Any]], place: str, method: str) -> Table:
    return Table(
        f"Texts steered (table 2 of the paper): {METHOD_NAMES.get(method, method)}, {place}, each "
        "concept at its best strength, on the first prompt where the judge saw it (chosen, that "
        "is, for what it shows)",
        ("Concept", "strength", "prompt", "unsteered", "steered"),
        tuple(
            (
                row["query"],
                f"{row['strength']:g}",
                _line(row["prompt"]),
                _line(row["unsteered"]),
                _line(row["steered"]),
            )
            for row in rows
        ),
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(rows: Sequence[Mapping[str, Any]], caption: str, kind: str) -> Table:
    places = list(dict.fromkeys(row["place"] for row in rows))
    methods = sorted(dict.fromkeys(row["method"] for row in rows), key=lambda m: m != RANDOM)
    by = {(row["method"], row["place"]): row for row in rows}
    cells = tuple(
        (
            str(METHOD_NAMES.get(method, method)),
            *(
                interval_cell(by[method, place], f"{metric}{kind}", digits)
                for place in places
                for metric, digits in (("faithfulness", 1), ("delta_activation", 2))
            ),
        )
        for method in methods
    )
    return Table(caption, ("Method", *(f"{p} {m}" for p in places for m in ("f", "Δa"))), cells)


def _paper_table(subject: str = "Llama-Base") -> Table:
    found = figures()["steering"][subject]
    places = list(next(iter(found.values())))
    return Table(
        f"The paper's own figures ({subject}, Gemma Scope 16k): other models, prompts and judge, "
        "so the order of methods can be compared, the values cannot",
        ("Method", *(f"{p} {m}" for p in places for m in ("f", "Δa"))),
        tuple(
            (
                METHOD_NAMES[method],
                *(
                    f"{by[place][metric]:.2f}"
                    for place in places
                    for metric in ("faithfulness", "delta_activation")
                ),
            )
            for method, by in found.items()
        ),
    )
