"""A plot of the report: drawn once, shown inside the page in its colours, saved as SVG or PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_jax.files import writing
from atlas_jax.report.markup import Html, element
from atlas_jax.report.style import LIGHT

if TYPE_CHECKING:  # matplotlib takes a second to import, and only a plot needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches: the two columns of a paper
COLOURS = 6
# Shapes tell the methods apart where colours do not.
_MARKS = ("o", "s", "D", "^", "X", "P")
_DATELESS = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure in the light colours, and what it shows in words."""

    figure: Figure
    label: str

    def inline(self, name: str) -> Html:
        """The plot as part of a page, in the page's colours; `name` keeps its ids apart."""
        drawing = self._written("svg", facecolor="none").decode()
        drawing = drawing[drawing.index("<svg") :].partition(">")[2]
        drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
        drawing = re.sub(r"<g id=\"[^\"]*\"", "<g", drawing).replace("xlink:href", "href")
        drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
        for variable, colour in LIGHT.items():
            drawing = drawing.replace(colour, f"var(--{variable})")
        width, height = (72 * inches for inches in self.figure.get_size_inches())
        content = Html(drawing.rpartition("</svg>")[0])
        svg = element(
            "svg", content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=self.label
        )
        return element("div", svg, class_="figure scroll", tabindex=0)

    def save(self, path: Path, **how: str) -> Path:
        """Writes an SVG or a PDF, by the ending of `path`: on white, each time the same bytes."""
        with writing(path, **how) as draft:
            draft.write_bytes(self._written(path.suffix[1:], facecolor="white"))
        return path

    def _written(self, ending: str, facecolor: str) -> bytes:
        written = io.BytesIO()
        with _look():
            self.figure.savefig(
                written, format=ending, facecolor=facecolor, metadata=_DATELESS[ending]
            )
        return written.getvalue()


@contextmanager
def drawn(height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty plot of `height` inches, and the look in which it is to be filled."""
    from matplotlib.figure import Figure

    with _look():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


@contextmanager
def _look() -> Iterator[None]:
    from matplotlib import rc_context

    ink, soft = LIGHT["ink"], LIGHT["soft"]
    look: Any = {
        **{f"axes.spines.{side}": False for side in ("top", "right", "left")},
        **{"axes.edgecolor": soft, "axes.labelcolor": soft, "text.color": ink},
        **{"axes.facecolor": "none", "figure.facecolor": "none"},
        **{"axes.grid.axis": "x", "axes.grid": True, "grid.color": LIGHT["rule"]},
        **{"axes.axisbelow": True, "grid.linewidth": 0.8, "xtick.color": soft},
        **{"ytick.color": soft, "ytick.labelcolor": ink, "ytick.major.size": 0},
        **{"font.size": 8.5, "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8.5},
        # Letters stay letters: they can be searched and edited, and the page gives them its font.
        **{"svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False},
        **{"svg.hashsalt": "atlas-jax", "font.family": "DejaVu Sans"},
    }
    with rc_context(look):
        yield


def colour(i: int) -> str:
    """The colour of the i-th method."""
    return LIGHT[f"c{i % COLOURS}"]


def mark(i: int) -> dict[str, Any]:
    """How matplotlib is to draw the i-th method: its colour and its mark."""
    drawn = {"color": colour(i), "marker": _MARKS[i % len(_MARKS)], "markersize": 6.5}
    return {**drawn, "markeredgecolor": "white", "markeredgewidth": 0.6}


def bounds(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """The range of `values`, widened by a share of itself."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = pad * (high - low or abs(high) or 1.0)
    return low - room, high + room
