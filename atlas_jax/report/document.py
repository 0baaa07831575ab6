"""An HTML page that loads nothing: head, style, the choice between light and dark, the contents."""

from __future__ import annotations

from atlas_jax.report.markup import Html, element
from atlas_jax.report.style import STYLE

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_THEMES = {"auto": "as the system", "light": "light", "dark": "dark"}


def document(title: str, *content: Html) -> str:
    """The page as text; `content` goes into its main part.

    Light and dark are chosen by the style alone: the page holds no script, and its policy lets a
    browser run and load none.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", STYLE),
    )
    body = element("body", element("main", _switch(), *content))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _switch() -> Html:
    choices = [
        element(
            "label",
            element(
                "input", type="radio", name="theme", id=f"theme-{key}",
                checked="" if key == "auto" else None,
            ),
            said,
        )
        for key, said in _THEMES.items()
    ]  # fmt: skip
    return element("fieldset", element("legend", "Colours:"), *choices, class_="theme")
