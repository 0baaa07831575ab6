"""Which plots a result gives, by the section of the report that shows them; and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.report.drawing import Drawing
from atlas_jax.report.figures import curve, distribution, intervals
from atlas_jax.report.markup import legible

Result = Mapping[str, Any]
Plots = dict[str, tuple[str, Drawing]]
METRICS = {"auroc": "AUROC", "ap": "Average precision"}
RANDOM = "random"


def quality(result: Result) -> Plots:
    """Mean and interval of each method at each site."""
    found = result.get("quality") or {}
    layers = found.get("layers") or {}
    chances = {"auroc": 0.5, "ap": found.get("base_rate")}
    methods = methods_of(layers)
    return {
        metric: (title, intervals(layers, methods, metric, title, chances[metric]))
        for metric, title in METRICS.items()
        if layers
    }


def features(result: Result) -> Plots:
    """Each atlas feature as a dot."""
    layers = (result.get("quality") or {}).get("layers") or {}
    return {
        f"{metric}_features": (f"{title}, one dot for each feature", drawing)
        for metric, title in METRICS.items()
        if (drawing := distribution(layers, methods_of(layers), metric, title))
    }


def retrieval(result: Result) -> Plots:
    """MRR and MPP of each method at each site."""
    sites = result.get("retrieval") or {}
    layers = {
        site: {
            row["method"]: {m: [row.get(f"{m}{end}") for end in ("", "_low", "_high")]
                            for m in ("mrr", "mpp")}
            for row in found["methods"]
        }
        for site, found in sites.items()
    }  # fmt: skip
    # In the table of qualities they may be fewer: a method has one colour in all plots.
    methods = _ordered(dict.fromkeys(methods_of(layers)), result)
    chance = next(iter(sites.values()), {}).get("random") or {}
    return {
        m: (m.upper(), intervals(layers, methods, m, m.upper(), chance.get(m)))
        for m in ("mrr", "mpp")
        if layers
    }


def learning(result: Result) -> Plots:
    """How the metrics grow with the number of training texts, at each site."""
    points = result.get("learning_curve") or []
    layers = (result.get("quality") or {}).get("layers") or {}
    # Those without a curve are named too: a method has one colour in all plots.
    names = dict.fromkeys(methods_of(layers))
    names |= {name: None for point in points for name in point.get("methods") or {}}
    methods = [name for name in _ordered(names, result) if name != RANDOM]
    plots: Plots = {}
    for site in dict.fromkeys(point.get("site", "") for point in points):
        here = [point for point in points if point.get("site", "") == site]
        for metric, title in METRICS.items():
            drawing = curve(here, methods, metric, title)
            if drawing is not None:
                name = re.sub(r"[^\w.-]", "-", f"curve_{metric}_{site}".rstrip("_"))
                plots[name] = (f"{title} at {site}" if site else title, drawing)
    return plots


PLOTS = {"quality": quality, "features": features, "retrieval": retrieval, "learning": learning}


def save_plots(result: Result, folder: str | Path) -> list[Path]:
    """Writes every plot of the report as SVG and as PDF into `folder`; returns the files.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder, result = Path(folder).expanduser(), legible(result)
    drawings = {name: one for make in PLOTS.values() for name, (_, one) in make(result).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            drawing.save(folder / f"{name}.{ending}")
            for name, drawing in drawings.items()
            for ending in ("svg", "pdf")
        ]
    except OSError as error:
        raise InputError(
            f"Expected to write plots into {folder}, got: {error.strerror or error}. "
            "Name a folder you may write to."
        ) from error


def methods_of(layers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The methods in the order in which they first occur; "random" is none."""
    return [m for m in dict.fromkeys(m for by in layers.values() for m in by) if m != RANDOM]


def _ordered(names: Mapping[str, None], result: Result) -> list[str]:
    """Methods in the order of the table, so that each keeps its colour and its mark."""
    known = methods_of((result.get("quality") or {}).get("layers") or {})
    return [*known, *(m for m in names if m not in known)]
