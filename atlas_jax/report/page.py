"""The page of a report: the sections in order, the contents, the style; and its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_jax.files import write_text
from atlas_jax.report import sections, texts
from atlas_jax.report.document import document
from atlas_jax.report.markup import element, legible

SECTIONS: dict[str, tuple[str, sections.Section]] = {
    "summary": ("What was done", sections.summary),
    "quality": ("How well the translations rank", sections.quality),
    "features": ("Feature by feature", sections.features),
    "retrieval": ("Subject features found again", sections.retrieval),
    "learning": ("With more text", sections.learning),
    "queries": ("Queries", texts.queries),
    "steering": ("Steering", texts.steering),
    "corpus": ("The corpus", sections.corpus),
    "making": ("How it was made", sections.making),
}


def render_report(result: Mapping[str, Any]) -> str:
    """The result of a run as one HTML page that loads nothing from anywhere.

    The same result gives the same page, byte for byte. Every text out of the result is escaped.
    A section whose data is missing is left out.

    Args:
        result: what report.json holds: title, created, versions, subject, atlas, corpus, timings,
            quality, learning_curve, retrieval, queries, steering, notes, licences; each may be
            missing.
    """
    result = legible(result)
    made = {key: content for key, (_, make) in SECTIONS.items() if (content := make(result))}
    links = [
        element("li", element("a", SECTIONS[key][0], href=f"#{key}"))
        for key in made
        if key != "summary"
    ]
    title = str(result.get("title") or "atlas-jax report")
    created = result.get("created")
    bodies = [
        element("section", element("h2", SECTIONS[key][0], id=f"{key}-title"), content,
                id=key, aria_labelledby=f"{key}-title")
        for key, content in made.items()
    ]  # fmt: skip
    header = element(
        "header",
        element("h1", title),
        element("p", str(created), class_="created") if created else None,
        element("nav", element("ul", *links), aria_label="Contents") if links else None,
    )
    return document(title, header, *bodies)


def save_report(result: Mapping[str, Any], path: str | Path) -> Path:
    """Writes the page of `render_report` to `path` in one step and returns the path.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path).expanduser()
    remedy = "Name a file in a folder you may write to"
    return write_text(path, render_report(result), remedy=remedy)
