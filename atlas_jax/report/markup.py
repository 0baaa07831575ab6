"""HTML elements as strings: whatever is not an element is escaped."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas_jax.outside import utf8


class Html(str):
    """Markup that is ready for the page; every other value is escaped when it is put there."""

    __slots__ = ()


_VOID = {"meta", "br", "hr", "input"}
_KEPT = "\t\n\r"
# HTML has no place for control characters, nor UTF-8 for lone surrogates.
_SHOWN = {code: "\ufffd" for code in range(32) if chr(code) not in _KEPT} | {127: "\ufffd"}
_SHOWN |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def element(tag: str, *children: object, **attributes: object) -> Html:
    """One element with its children; `class_` and `data_x` become `class` and `data-x`.

    Args:
        tag: its name.
        children: `Html` goes in as it is, None is left out, lists are joined, the rest is escaped.
        attributes: None leaves one out.
    """
    named = "".join(
        f' {name.strip("_").replace("_", "-")}="{_escaped(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Html(f"<{tag}{named}/>")
    return Html(f"<{tag}{named}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Html:
    """The children one after the other."""
    return Html("".join(_child(child) for child in children))


def table(head: Sequence[object], rows: Sequence[Sequence[object]], caption: str = "") -> Html:
    """A table that scrolls by itself where the page is narrow; its first column heads the rows."""
    classes = ["n" if all(map(_numeric, column)) else None for column in zip(*rows, strict=True)]
    cells = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", row[i], class_=classes[i]) for i in range(1, len(row))),
        )
        for row in rows
    ]
    classes = [None, *classes[1:]] if classes else [None] * len(head)
    titles = [
        element("th", title, scope="col", class_=class_)
        for title, class_ in zip(head, classes, strict=True)
    ]
    content = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", *titles)),
        element("tbody", *cells),
    )
    label = caption or ", ".join(str(title) for title in head if title)
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def legible(value: Any) -> Any:
    """A result whose texts UTF-8 can hold: neither a plot nor a file takes others."""
    if isinstance(value, Mapping):
        return {legible(key): legible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [legible(inner) for inner in value]
    return utf8(value) if isinstance(value, str) else value


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: thousands grouped, decimals fixed, a dash for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _numeric(cell: object) -> bool:
    """Whether a cell is one number as `number` writes it; its column then ends flush right."""
    return not isinstance(cell, Html) and re.fullmatch(r"–|-?[\d,]+(\.\d+)?", str(cell)) is not None


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, list | tuple):
        return join(child)
    return _escaped(str(child))


def _escaped(text: str) -> str:
    return html.escape(text.translate(_SHOWN))
