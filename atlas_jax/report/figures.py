"""The plots of evaluations: intervals, single features, and curves over the number of texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas_jax.report.drawing import Drawing, bounds, colour, drawn, mark
from atlas_jax.report.markup import number
from atlas_jax.report.style import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Layers = Mapping[str, Mapping[str, Mapping[str, Any]]]
_ROW = 0.22  # inches
# Dots that touch are moved off the row by a fixed pattern, so that a crowd looks dense.
_OFFSETS = (0, -0.13, 0.13, -0.26, 0.26, -0.07, 0.2, -0.2, 0.07)


def intervals(
    layers: Layers, methods: Sequence[str], metric: str, title: str, chance: float | None
) -> Drawing:
    """Mean and 95 % interval of a metric: a row for each method at each site.

    Args:
        layers: by site, by method: `metric` is mean, low, high.
        methods: in the order of the rows.
        metric: "auroc" or "ap".
        title: of the figure and its axis.
        chance: where a vertical line marks what chance gives; None draws none.
    """
    found = {
        (site, method): [math.nan if v is None else float(v) for v in triple]
        for site in layers
        for method in methods
        if (triple := layers[site].get(method, {}).get(metric)) is not None
    }
    rows, places = _rows(found, methods)
    with drawn(_ROW * rows + 0.6) as (figure, axes):
        for (site, method), (mean, low, high) in found.items():
            y, i = places[site, method], methods.index(method)
            axes.plot([low, high], [y, y], color=colour(i), linewidth=1.6, gid="whisker")
            axes.plot([mean], [y], linestyle="none", **mark(i))
        values = [v for triple in found.values() for v in triple if math.isfinite(v)]
        _name(axes, places, rows, bounds([*values, *([] if chance is None else [chance])]), title)
        if chance is not None:
            axes.axvline(chance, color=LIGHT["soft"], linewidth=1.2, linestyle=(0, (3, 2)))
            axes.annotate(
                f" chance {number(float(chance))}", (chance, 1), xycoords=("data", "axes fraction"),
                color=LIGHT["soft"], fontsize=8, va="bottom",
            )  # fmt: skip
    said = f"{title} by method and site, mean and 95\N{NO-BREAK SPACE}% interval"
    return Drawing(figure, said)


def distribution(layers: Layers, methods: Sequence[str], metric: str, title: str) -> Drawing | None:
    """Each feature's value as a dot, a row for each method at each site; a bar at the median."""
    found = {
        (site, method): finite
        for site in layers
        for method in methods
        if (finite := _finite(layers[site].get(method, {}).get(f"{metric}_per_feature") or []))
    }
    if not found:
        return None
    rows, places = _rows(found, methods)
    with drawn(1.4 * _ROW * rows + 0.6) as (figure, axes):
        for (site, method), values in found.items():
            y, i, middle = places[site, method], methods.index(method), statistics.median(values)
            heights = [y + _OFFSETS[j % len(_OFFSETS)] for j in range(len(values))]
            look = {"color": colour(i), "alpha": 0.55, "markersize": 3.2, "markeredgewidth": 0}
            axes.plot(sorted(values), heights, "o", **look)
            axes.plot([middle, middle], [y - 0.4, y + 0.4], color=LIGHT["ink"], gid="median")
        everything = [v for values in found.values() for v in values]
        _name(axes, places, rows, bounds(everything), title)
    return Drawing(figure, f"{title} of each feature, by method and site; bars at the medians")


def curve(
    points: Sequence[Mapping[str, Any]], methods: Sequence[str], metric: str, title: str
) -> Drawing | None:
    """A metric against the number of training texts, one line for each method.

    Args:
        points: each holds "n" and, under "methods", the metrics by method.
        methods: in the order of colours.
        metric: "auroc" or "ap".
        title: of the vertical axis.
    """
    lines = {m: line for m in methods if (line := list(_along(points, m, metric)))}
    if not lines:
        return None
    with drawn(2.6) as (figure, axes):
        for method, line in lines.items():
            x, y = zip(*line, strict=True)
            axes.plot(x, y, label=method, linewidth=1.6, **mark(methods.index(method)))
        # Training sets are doubled, not lengthened: equal ratios get equal room.
        axes.set_xscale("log")
        counts = sorted({int(n) for line in lines.values() for n, _ in line})
        axes.set_xticks(counts, [number(n) for n in counts])
        axes.set_xticks([], minor=True)
        axes.grid(False, axis="x")
        axes.grid(True, axis="y")
        axes.set(xlabel="training texts", ylabel=title)
        # From top to bottom as the lines end.
        order = sorted(range(len(lines)), key=lambda i: -list(lines.values())[i][-1][1])
        handles = axes.get_lines()
        axes.legend(handles=[handles[i] for i in order], loc="center left",
                    bbox_to_anchor=(1, 0.5), frameon=False)  # fmt: skip
    return Drawing(figure, f"{title} against the number of training texts")


def _rows(
    found: Mapping[tuple[str, str], object], methods: Sequence[str]
) -> tuple[float, dict[tuple[str, str], float]]:
    """How many rows there are, headings of the sites among them, and the row of each pair."""
    places: dict[tuple[str, str], float] = {}
    row = 0.0
    for site in dict.fromkeys(site for site, _ in found):
        for method in methods:
            if (site, method) in found:
                row += 1
                places[site, method] = row
        row += 1.3
    return row, places


def _name(
    axes: Axes, places: Mapping[tuple[str, str], float], rows: float, limits: tuple[float, float],
    title: str,
) -> None:  # fmt: skip
    """Methods beside their rows, sites above theirs, and the axis."""
    heads: dict[str, float] = {}
    for (site, _), row in places.items():
        heads.setdefault(site, row - 1)
    axes.set_yticks([*heads.values(), *places.values()], [*heads, *(m for _, m in places)])
    for label in axes.get_yticklabels()[: len(heads)]:
        label.set_fontweight("bold")
    axes.set(xlim=limits, ylim=(max(rows, 1) - 0.4, -0.6), xlabel=title)


def _finite(values: Sequence[float | None]) -> list[float]:
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def _along(
    points: Sequence[Mapping[str, Any]], method: str, metric: str
) -> Iterator[tuple[float, float]]:
    for point in sorted(points, key=lambda p: p["n"]):
        value = (point.get("methods") or {}).get(method, {}).get(metric)
        value = value[0] if isinstance(value, list | tuple) else value
        if value is not None and math.isfinite(value):
            yield float(point["n"]), float(value)
