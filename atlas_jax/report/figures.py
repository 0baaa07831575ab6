"""Figures of the report, drawn as inline SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_jax.report.markup import Html, element, number
from atlas_jax.report.style import STYLE

_WIDTH = 720
_LEFT, _RIGHT = 148, 24
# Shapes tell the methods apart where colours do not.
_MARKS = ("circle", "square", "diamond", "triangle", "cross", "ring")
COLOURS = 6
Real = float | int


class Scale:
    """A linear map from the values of `low` to `high` to the pixels of `start` to `end`."""

    def __init__(self, low: Real, high: Real, start: Real, end: Real) -> None:
        self.low, self.high = low, high if high > low else low + 1.0
        self.start, self.end = start, end

    def __call__(self, value: Real) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale: steps of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = min((1, 2, 5, 10), key=lambda m: abs(m * power - raw)) * power
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


def bounds(values: Sequence[Real], pad: float = 0.06) -> tuple[float, float]:
    """The range of `values`, widened by a share of itself."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = pad * (high - low or abs(high) or 1.0)
    return low - room, high + room


def intervals(
    layers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    methods: Sequence[str],
    metric: str,
    title: str,
    chance: Real | None,
) -> Html:
    """Mean and 95 % interval of a metric: a row for each method at each site.

    Args:
        layers: by site, by method: `metric` is mean, low, high.
        methods: in the order of the rows.
        metric: "auroc" or "ap".
        title: of the figure and its axis.
        chance: where a vertical line marks what chance gives; None draws none.
    """
    found = {
        (site, method): layers[site][method][metric]
        for site in layers
        for method in methods
        if method in layers[site] and layers[site][method].get(metric) is not None
    }
    values = [float(v) for triple in found.values() for v in triple if v is not None]
    scale = Scale(*bounds([*values, *([chance] if chance is not None else [])]),
                  _LEFT, _WIDTH - _RIGHT)  # fmt: skip
    parts, y = [], 26.0
    for site in layers:
        parts.append(element("text", site, x=0, y=y + 4, class_="site"))
        y += 22
        for i, method in enumerate(methods):
            if (site, method) in found:
                parts.append(_interval(found[site, method], method, i, scale, y, site, title))
                y += 20
        y += 12
    bottom = y - 6
    grid = _vertical_axis(scale, 12, bottom, title)
    if chance is not None:
        x = scale(chance)
        grid.append(element("line", x1=x, x2=x, y1=12, y2=bottom, class_="chance"))
        label = f"chance {number(float(chance))}"
        anchor = "start" if x < _WIDTH / 2 else "end"
        at = x + 4 if anchor == "start" else x - 4
        grid.append(element("text", label, x=at, y=10, class_="tick", text_anchor=anchor))
    return _svg(
        bottom + 40,
        f"{title} by method and site, mean and 95\N{NO-BREAK SPACE}% interval",
        grid,
        parts,
    )


def _interval(
    triple: Sequence[Real | None],
    method: str,
    i: int,
    scale: Scale,
    y: float,
    site: str,
    title: str,
) -> Html:
    mean, low, high = (float(v) if v is not None else math.nan for v in triple)
    said = f"{method}, {site}: {title} {number(mean)} ({number(low)} to {number(high)})"
    drawn = []
    if math.isfinite(low) and math.isfinite(high):
        drawn.append(element("line", x1=scale(low), x2=scale(high), y1=y, y2=y, class_="whisker"))
    if math.isfinite(mean):
        drawn.append(mark(i, scale(mean), y))
    name = element("text", method, x=_LEFT - 12, y=y + 4, class_="name", text_anchor="end")
    return element("g", element("title", said), name, *drawn, class_=f"c{i % COLOURS}")


def distribution(
    layers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    methods: Sequence[str],
    metric: str,
    title: str,
) -> Html | None:
    """Each feature's value as a dot, a row for each method at each site; a bar at the median."""
    found = {
        (site, method): [float(v) for v in values if v is not None and math.isfinite(v)]
        for site in layers
        for method in methods
        if (values := layers[site].get(method, {}).get(f"{metric}_per_feature"))
    }
    if not any(found.values()):
        return None
    scale = Scale(*bounds([v for values in found.values() for v in values]), _LEFT, _WIDTH - _RIGHT)
    parts, y = [], 22.0
    for site in dict.fromkeys(site for site, _ in found):
        parts.append(element("text", site, x=0, y=y + 4, class_="site"))
        y += 26
        for i, method in enumerate(methods):
            values = found.get((site, method))
            if values:
                parts.append(_dots(sorted(values), method, i, scale, y))
                y += 30
        y += 8
    grid = _vertical_axis(scale, 8, y - 6, title)
    return _svg(y + 34, f"{title} of each feature, by method and site", grid, parts)


def _dots(values: Sequence[float], method: str, i: int, scale: Scale, y: float) -> Html:
    """Dots that touch are moved off the row by a fixed pattern, so that a crowd looks dense."""
    offsets = (0, -4, 4, -8, 8, -2, 6, -6, 2)
    dots = [
        element("circle", cx=scale(v), cy=y + offsets[j % len(offsets)], r=2.2)
        for j, v in enumerate(values)
    ]
    half = len(values) // 2
    median = values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
    x = scale(median)
    bar = element("line", x1=x, x2=x, y1=y - 12, y2=y + 12, class_="median")
    said = f"{method}: median {number(median)} of {len(values)} features"
    name = element("text", method, x=_LEFT - 12, y=y + 4, class_="name", text_anchor="end")
    return element("g", element("title", said), name, *dots, bar, class_=f"dots c{i % COLOURS}")


def curve(
    points: Sequence[Mapping[str, Any]], methods: Sequence[str], metric: str, title: str
) -> Html | None:
    """A metric against the number of training texts, one line for each method.

    Args:
        points: each holds "n" and, under "methods", the metrics by method.
        methods: in the order of colours.
        metric: "auroc" or "ap".
        title: of the vertical axis.
    """
    lines = {method: list(_along(points, method, metric)) for method in methods}
    flat = [pair for line in lines.values() for pair in line]
    if not flat:
        return None
    height, left = 260, 56
    label_room = 34 + min(200, 7 * max(map(len, methods)))
    # Training sets are doubled, not lengthened: equal ratios get equal room.
    logs = [math.log10(n) for n, _ in flat]
    across = Scale(*bounds(logs, 0.03), left, _WIDTH - label_room)
    up = Scale(*bounds([v for _, v in flat]), height - 44, 22)
    grid = []
    for tick in up.ticks():
        grid.append(_line(left, _WIDTH - label_room, up(tick), up(tick), "grid"))
        grid.append(_tick(number(tick, 2), left - 8, up(tick) + 4, "end"))
    for n in sorted({n for n, _ in flat}):
        x = across(math.log10(n))
        grid.append(_line(x, x, height - 44, height - 39, "axis"))
        grid.append(_tick(number(int(n)), x, height - 24, "middle"))
    grid.append(_tick(title, 0, 12, "start"))
    grid.append(_tick("training texts", (left + _WIDTH - label_room) / 2, height - 6, "middle"))
    parts, ends = [], []
    for i, method in enumerate(methods):
        placed = [(across(math.log10(n)), up(v)) for n, v in lines[method]]
        if placed:
            path = "M" + " L".join(f"{x:g} {y:g}" for x, y in placed)
            drawn = [element("path", d=path, class_="curve"), *(mark(i, *p) for p in placed)]
            said = element("title", f"{method}: {number(lines[method][-1][1])} at the last point")
            parts.append(element("g", said, *drawn, class_=f"c{i % COLOURS}"))
            ends.append((placed[-1][1], i, method))
    parts += _labels(ends, _WIDTH - label_room + 14)
    return _svg(height, f"{title} against the number of training texts", grid, parts)


def _along(
    points: Sequence[Mapping[str, Any]], method: str, metric: str
) -> Iterator[tuple[float, float]]:
    for point in sorted(points, key=lambda p: p["n"]):
        value = (point.get("methods") or {}).get(method, {}).get(metric)
        value = value[0] if isinstance(value, list | tuple) else value
        if value is not None and math.isfinite(value):
            yield float(point["n"]), float(value)


def _labels(ends: Sequence[tuple[float, int, str]], x: Real) -> Iterator[Html]:
    """Marks and names beside the ends of the lines, pushed down where they would overlap."""
    below = -math.inf
    for y, i, method in sorted(ends):
        below = max(y, below + 15)
        yield element("g", mark(i, x, below), class_=f"c{i % COLOURS}")
        yield element("text", method, x=x + 10, y=below + 4, class_="name")


def save_figure(figure: Html, path: Path) -> Path:
    """Writes one figure of this module as an SVG file that stands alone."""
    drawing = figure[figure.index("<svg") : figure.rindex("</svg>") + len("</svg>")]
    head, _, rest = drawing.partition(">")
    style = f"<style>{STYLE}svg {{ min-width: 0; background: var(--page); }}</style>"
    namespace = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    path.write_text(f"{namespace}>{style}{rest}\n", "utf-8")
    return path


def mark(i: int, x: Real, y: Real) -> Html:
    """The mark of the i-th method, centred on (x, y)."""
    shape = _MARKS[i % len(_MARKS)]
    if shape in ("circle", "ring"):
        return element("circle", cx=x, cy=y, r=4.5, class_=f"mark {shape}")
    paths = {
        "square": f"M{x - 4:g} {y - 4:g}h8v8h-8z",
        "diamond": f"M{x:g} {y - 5.5:g}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        "triangle": f"M{x:g} {y - 5:g}l5.2 9.4h-10.4z",
        "cross": f"M{x - 4:g} {y - 4:g}l8 8m0 -8l-8 8",
    }
    return element("path", d=paths[shape], class_=f"mark {shape}")


def _vertical_axis(scale: Scale, top: Real, bottom: Real, title: str) -> list[Html]:
    parts = []
    for tick in scale.ticks(6):
        x = scale(tick)
        parts.append(_line(x, x, top, bottom, "grid"))
        parts.append(_tick(number(tick, 2), x, bottom + 16, "middle"))
    middle = (scale.start + scale.end) / 2
    return [*parts, _tick(title, middle, bottom + 34, "middle")]


def _line(x1: Real, x2: Real, y1: Real, y2: Real, class_: str) -> Html:
    return element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=class_)


def _tick(text: str, x: Real, y: Real, anchor: str) -> Html:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_="tick")


def _svg(height: Real, label: str, *parts: object) -> Html:
    drawing = element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {height:g}", role="img", aria_label=label
    )
    return element("div", drawing, class_="figure scroll", tabindex=0)
