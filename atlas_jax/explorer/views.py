"""The views as HTML: data in, markup out; every text of a corpus, label or model is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_jax.explorer.explored import Concept, Detail, Ranked
from atlas_jax.explorer.held_out import Spread
from atlas_jax.explorer.results import Lift
from atlas_jax.explorer.writing import Written
from atlas_jax.report.markup import Html, element, join, number, table
from atlas_jax.report.sections import learning, quality, retrieval
from atlas_jax.report.texts import concept_list, sample_item

_SHOWN = 200


def framed(*children: object) -> Html:
    """What the page's style applies to."""
    return element("div", *children, class_="explored")


def note(text: str, kind: str = "note") -> Html:
    """One line in the place of a view; `kind` may be `problem`."""
    return framed(element("p", text, class_=kind, role="status"))


def heading(subject: str, atlas: str, sites: Sequence[str], folder: str) -> Html:
    """Whose page this is."""
    title = element("h1", subject, element("small", " through "), atlas)
    facts = element("p", f"{folder} · {', '.join(sites)}", class_="created")
    return framed(element("header", title, facts))


def ranking(found: Sequence[Ranked], chosen: tuple[str, int] | None) -> Html:
    """Subject features as buttons, the best first; what they are called is in their data."""
    if not found:
        return note("Tick at least one atlas feature to rank the subject's features.")
    top = max(hit.score for hit in found)
    sites = len({hit.site for hit in found}) > 1
    rows = [element("li", _button(hit, chosen, top, sites)) for hit in found]
    return framed(
        element("h2", "Subject features"),
        element("ol", *rows, class_="ranked"),
    )


def _button(hit: Ranked, chosen: tuple[str, int] | None, top: float, sites: bool) -> Html:
    open_ = (hit.site, hit.feature) == chosen
    share = f"--share:{max(0.0, hit.score / top if top > 0 else 0.0):.3f}"
    place = element("small", hit.site) if sites else None
    said = element("span", "; ".join(c.description for c in hit.concepts), class_="said")
    return element(
        "button",
        element("span", element("b", f"#{hit.feature}"), place, class_="neuron"),
        element("span", number(hit.score), class_="score"),
        element("span", class_="meter", style=share, aria_hidden="true"),
        said,
        type="button",
        data_site=hit.site,
        data_feature=hit.feature,
        aria_pressed="true" if open_ else "false",
    )


def detail(found: Detail, waiting: bool = False) -> Html:
    """A subject feature: what the atlas says of it, its distribution, its texts.

    Args:
        found: what is known.
        waiting: whether the activations at its tokens are still being computed.
    """
    top = max((sample.activation for sample in found.samples), default=0.0)
    texts = [sample_item(asdict(sample), top) for sample in found.samples]
    return framed(
        element("h2", f"{found.site} · {found.feature}"),
        element("h4", f"What the atlas says of it ({found.method})"),
        concept_list(_rows(found.concepts)) or element("p", "Nothing: its row is zero."),
        element("h4", "Its largest activation in each held-out text") if found.spread else None,
        histogram(found.spread) if found.spread else None,
        element("h4", "Held-out texts that activate it most"),
        element("p", "Reading the tokens …", class_="waiting", role="status") if waiting else None,
        element("ol", *texts, class_="samples")
        if texts
        else element("p", "The run kept no held-out activations and texts."),
    )


def _rows(concepts: Sequence[Concept]) -> list[Mapping[str, Any]]:
    return [asdict(concept) for concept in concepts]


def histogram(spread: Spread) -> Html:
    """Bars of a logarithmic height: most texts do not activate a feature, the few others matter."""
    width, height, base = 480, 88, 66
    counts = [int(count) for count in spread.counts]
    step, most = width / len(counts), math.log1p(max(*counts, 1))
    bars = []
    for i, count in enumerate(counts):
        tall = round(base * math.log1p(count) / most, 2)
        low, high = (number(float(spread.edges[j]), 2) for j in (i, i + 1))
        said = element("title", f"{low} to {high}: {number(count)} texts")
        shape = {"x": round(i * step + 0.5, 2), "y": round(base - tall, 2)}
        bars.append(element("rect", said, width=round(step - 1, 2), height=tall, **shape))
    ends = [
        element("text", number(float(spread.edges[0]), 2), x=0, y=height - 6),
        element("text", number(float(spread.edges[-1]), 2), x=width, y=height - 6,
                text_anchor="end"),
    ]  # fmt: skip
    counted = f"{number(spread.n)} of {number(spread.total)} held-out texts"
    label = f"Distribution over {counted}, heights logarithmic"
    middle = element("text", f"{counted}, log height", x=width / 2, y=height - 6,
                     text_anchor="middle")  # fmt: skip
    line = element("line", x1=0, x2=width, y1=base, y2=base)
    return element(
        "svg", *bars, line, *ends, middle, viewBox=f"0 0 {width} {height}", role="img",
        aria_label=label, class_="spread",
    )  # fmt: skip


def direction(concepts: Sequence[Concept], site: str, method: str) -> Html:
    """What is steered along, in a line."""
    if not concepts:
        return note("Search a concept first: the ticked atlas features are the direction.")
    said = "; ".join(f"{number(one.weight, 2)} {one.description}" for one in concepts)
    return note(f"Along {said}, at {site}, by {method}.")


def written(said: Written, strength: float) -> Html:
    """The two continuations side by side."""
    sides = [
        ("unsteered", said.plain, "plain"),
        (f"steered, strength {strength:g}", said.steered, "towards"),
    ]
    cards = [
        element(
            "article",
            element("h4", title),
            element(
                "p",
                element("span", said.prompt, class_="prompt"),
                element("span", text, class_="new"),
                None if said.done else element("span", "▍", class_="caret", aria_hidden="true"),
                class_="written",
                dir="auto",
            ),
            class_=f"card {kind}",
        )
        for title, text, kind in sides
    ]
    done = "true" if said.done else "false"
    return framed(element("div", *cards, class_="beside", data_done=done, aria_live="polite"))


def comparison(found: Mapping[str, Any], folder: str) -> Html:
    """Methods by sites, and what else was measured."""
    parts = {
        "How well the translations rank": quality(found),
        "Subject features found again": retrieval(found),
        "With more text": learning(found),
    }
    shown = [join([element("h2", title), part]) for title, part in parts.items() if part]
    if not shown:
        return note(
            "Nothing was measured in this run yet: atlas-jax evaluate translation "
            f"{folder} measures every method at every site."
        )
    return framed(*shown)


def bridge(lift: Lift | None, words: str, folder: str) -> Html:
    """Native and foreign explanations side by side; those that hold some words."""
    if lift is None:
        return note(
            "No explanations here: atlas-jax lift BRIDGE --foreign VERBALIZER --background FILE "
            f"--atlas NAME --out {folder}/lift writes them, or start with --lift FOLDER."
        )
    found = lift.matching(words)
    rows = [
        [one.name, _said(one.native), _said(one.foreign), number(one.lift, 2)]
        for one in found[:_SHOWN]
    ]
    lead = element(
        "p",
        f"{lift.source}, explained by its own verbalizer and, over a bridge, by that of "
        f"{lift.target}. Explanations of one direction are ",
        element("strong", number(lift.mean)),
        f" (95 % interval {number(lift.low)} to {number(lift.high)}) in cosine above those of "
        "other directions.",
    )
    count = element("p", f"{number(len(found))} of {number(len(lift.explanations))} directions, "
                    f"{number(len(rows))} shown", class_="created")  # fmt: skip
    heads = ["direction", "native explanation", "foreign explanation", "lift"]
    return framed(lead, count, table(heads, rows) if rows else None)


def _said(text: str) -> Html:
    return element("span", text, class_="explained", dir="auto")
