"""Evaluations of a finished run: its stores and translations in, numbers, tables and plots out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_jax.evaluate.concept_sets import ConceptSets, sets_from_samples
from atlas_jax.evaluate.retrieval import evaluate_retrieval
from atlas_jax.evaluate.steering_tables import steering_tables
from atlas_jax.evaluate.tables import Table, retrieval_tables, translation_tables
from atlas_jax.evaluate.translation_quality import evaluate_translation
from atlas_jax.files import write_json, write_text
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.report.drawing import Drawing
from atlas_jax.report.figures import distribution, intervals
from atlas_jax.translate import Translation

TABLES: dict[str, Callable[..., list[Table]]] = {
    "translation": translation_tables,
    "retrieval": retrieval_tables,
    "steering": steering_tables,
}
_METRICS = {"translation": ("auroc", "ap"), "retrieval": ("mrr", "mpp")}


def evaluate_run_translation(
    run: RunFolder,
    features: int | Sequence[int] = 100,
    *,
    sites: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """`evaluate_translation` as JSON-able values, by default at every site with every method."""
    chosen = _chosen(run, sites, methods)
    concepts = run.held_out_atlas[run.held_out_atlas.sites[0]]
    found = {
        site: evaluate_translation(
            _maps(run, site, by), run.held_out[site], concepts, features=features, **how
        ).to_dict()
        for site, by in chosen.items()
    }
    return {**run.about(), "sites": found}


def _chosen(
    run: RunFolder, sites: Sequence[str] | None, methods: Sequence[str] | None
) -> dict[str, list[str]]:
    """Of each site the methods it was fitted with."""
    asked = run.choose_methods(methods)
    return {
        site: [method for method in asked if method in run.files[site]]
        for site in run.choose_sites(sites)
    }


def _maps(run: RunFolder, site: str, methods: Sequence[str]) -> dict[str, Translation]:
    return {method: run.translation(site, method) for method in methods}


def evaluate_run_retrieval(
    run: RunFolder,
    features: int | Sequence[int] = 454,
    size: int = 20,
    *,
    sites: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    validity: str = "sets",
    seed: int = 0,
    sets: Callable[[str], ConceptSets] | None = None,
) -> dict[str, Any]:
    """`evaluate_retrieval` as JSON-able values.

    Args:
        run: the run.
        features: subject features to draw at each site, or which.
        size: texts of a set.
        sites: some of the run's; default: all.
        methods: some of the run's; default: all.
        validity: the rule of `evaluate_retrieval`.
        seed: of the draw and the bootstrap.
        sets: from a site to its sets; default: made of held-out texts.
    """
    reports = {}
    concepts = run.held_out_atlas[run.held_out_atlas.sites[0]]
    for site, by in _chosen(run, sites, methods).items():
        if sets is None:
            found = sets_from_samples(run.held_out[site], concepts, features, size, seed)
        else:
            found = sets(site)
        report = evaluate_retrieval(_maps(run, site, by), found, validity=validity, seed=seed)
        reports[site] = report.to_dict()
    return {**run.about(), "sites": reports}


def save_evaluation(kind: str, result: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes JSON, Markdown, LaTeX and plots (SVG, PDF) of an evaluation.

    Args:
        kind: `translation`, `retrieval` or `steering`.
        result: what `evaluate_run_translation` or `evaluate_run_retrieval` gave, or
            `SteeringReport.to_dict`.
        out: the folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    tables = TABLES[kind](result)
    written = [out / f"{kind}.{ending}" for ending in ("json", "md", "tex")]
    remedy = "Name another folder with --out"
    write_json(written[0], result, remedy=remedy)
    write_text(written[1], "\n".join(table.markdown() for table in tables), remedy=remedy)
    write_text(written[2], "\n".join(table.latex() for table in tables), remedy=remedy)
    figures = _steering_figures(result) if kind == "steering" else _figures(kind, result["sites"])
    written += [
        figure.save(out / f"{name}.{ending}", remedy=remedy)
        for name, figure in figures.items()
        if figure is not None
        for ending in ("svg", "pdf")
    ]
    return written


def _figures(kind: str, sites: Mapping[str, Any]) -> dict[str, Drawing | None]:
    layers = layers_of(sites, _METRICS[kind])
    first = next(iter(sites.values()))
    methods = [row["method"] for row in first["methods"]]
    chances = first.get("random") or {"auroc": 0.5, "ap": first.get("base_rate")}
    found: dict[str, Drawing | None] = {}
    for metric in _METRICS[kind]:
        title = metric.upper()
        found[metric] = intervals(layers, methods, metric, title, chances[metric])
        found[f"{metric}_features"] = distribution(layers, methods, metric, title)
    return found


def _steering_figures(result: Mapping[str, Any]) -> dict[str, Drawing | None]:
    judge, rows = next(iter(result["rows"].items()))
    metrics = {"faithfulness": f"faithfulness, per cent ({judge})", "delta_activation": "Δa"}
    layers: dict[str, Any] = {}
    for row in rows:
        entry = {m: [row[f"{m}{end}"] for end in ("", "_low", "_high")] for m in metrics}
        layers.setdefault(row["place"], {})[row["method"]] = {
            m: triple for m, triple in entry.items() if None not in triple
        }
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return {m: intervals(layers, methods, m, title, None) for m, title in metrics.items()}


def layers_of(sites: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Reports of all sites in the form that figures are drawn from."""
    layers: dict[str, Any] = {}
    for site, report in sites.items():
        layers[site] = {}
        for row in report["methods"]:
            entry: dict[str, Any] = {}
            for metric in metrics:
                entry[metric] = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
                entry[f"{metric}_per_feature"] = report["per_feature"][row["method"]][metric]
            layers[site][row["method"]] = entry
    return layers
