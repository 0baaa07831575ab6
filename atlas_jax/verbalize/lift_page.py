"""The page of a lift: figures, nulls, and native beside foreign explanation for each feature."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_jax.files import write_json, write_text
from atlas_jax.report.document import document
from atlas_jax.report.markup import Html, element, number, table

_LABEL = "re-measurement under this project's protocol"


def render_lift(result: Mapping[str, Any], title: str = "Native and foreign explanations") -> str:
    """What `measure_lift` returns, as one HTML page that loads nothing from anywhere."""
    figures, bridge = result["figures"], result["bridge"]
    source, target = bridge.get("source", {}), bridge.get("target", {})
    spec = figures["lift_spec"]
    lead = element(
        "p",
        f"{len(result['features'])} directions of {source.get('model')} at {source.get('site')} "
        f"were explained natively, and through a bridge into {target.get('model')} at "
        f"{target.get('site')} ({number(bridge.get('n'))} token pairs). Explanations of the same "
        "direction are ",
        element("strong", f"{spec['mean']:+.3f}"),
        f" in cosine similarity above those of other directions (95 % interval over features "
        f"{spec['low']:+.3f} to {spec['high']:+.3f}; {_LABEL}).",
        class_="lead",
    )
    sections = [
        _section("summary", "What was measured", lead),
        _section("figures", "Figures", _figures(figures)),
        _section("nulls", "What must be nothing", _nulls(figures)),
        *_washouts(result),
        _section("quirks", "Quirks of the foreign verbalizer", _pairs(figures["quirks"])),
        _section("bridge", "The bridge", _pairs(_bridge(bridge))),
        _section("features", "Feature by feature", _features(result)),
    ]
    return document(title, element("header", element("h1", title)), *sections)


def save_lift(result: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes the page, and the numbers beside it: lift.html and lift.json.

    Raises:
        InputError: a file cannot be written.
    """
    path = Path(path)
    write_json(path.with_suffix(".json"), result)
    return write_text(path, render_lift(result))


def _section(key: str, title: str, content: Html) -> Html:
    return element("section", element("h2", title, id=f"{key}-title"), content, id=key)


def _figures(figures: Mapping[str, Any]) -> Html:
    rows = [["feature-specific lift (headline)", *_interval(figures["lift_spec"])]]
    rows += [
        [f"lift over random directions: {family}", *_interval(value)]
        for family, value in figures["lift_rand"].items()
    ]
    rows.append(["double-centred lift", *_interval(figures["lift_dc"])])
    if "round_trip" in figures:
        rows.append(["round trip: cosine without background", *_interval(figures["round_trip"])])
    rows.append(["cosine of own explanations", number(figures["own_cosine"]), "–", "–"])
    rows.append(["lift over its noise ceiling", number(figures["normalised"]), "–", "–"])
    rows.append(["retrieval: top 1", number(figures["top1"]), "–", "–"])
    rows.append(["retrieval: mean reciprocal rank", number(figures["mrr"]), "–", "–"])
    rows.append(["retrieval: chance", number(figures["chance"]), "–", "–"])
    for key in ("permutation", "permutation_within_topics"):
        if key in figures:
            test = figures[key]
            rows.append([f"{key.replace('_', ' ')}: p", number(test["p"], 4), "–", "–"])
            rows.append([f"{key.replace('_', ' ')}: z", number(test["z"], 1), "–", "–"])
    return table(["", "mean", "from", "to"], rows)


def _nulls(figures: Mapping[str, Any]) -> Html:
    rows = [[name.replace("_", " "), *_interval(v)] for name, v in figures["nulls"].items()]
    return table(["control", "lift", "from", "to"], rows, "Feature-specific lift of the controls")


def _washouts(result: Mapping[str, Any]) -> list[Html]:
    """The comparison, where one was made."""
    compared = result.get("washouts") or {}
    rows = []
    for name, one in compared.items():
        against = one.get("against", {})
        taken = {True: "yes", False: "no"}.get(against.get("quirks_taken"), "–")
        rows.append(
            [
                name,
                *_interval(one["lift_spec"]),
                *(
                    number(one.get(key), 2)
                    for key in ("top1", "genericness", "leakage", "stability")
                ),
                number(against.get("lift_difference")),
                number(against.get("p_holm"), 4),
                taken,
            ]
        )
    if not rows:
        return []
    heads = ["washout", "lift", "from", "to", "top 1", "generic", "leaks", "stable"]
    heads += ["lift against the first", "p (Holm)", "quirks taken away"]
    margin = number(result["plan"]["margin"])
    note = element(
        "p",
        "Quirks are taken away where genericness, leakage and other quirks are not higher, "
        "stability is not lower, and neither lift nor nuance is lower by more than "
        f"{margin}, stated first.",
    )
    return [_section("washouts", "Washouts compared", element("div", note, table(heads, rows)))]


def _interval(value: Mapping[str, Any]) -> list[str]:
    return [number(value[key]) for key in ("mean", "low", "high")]


def _bridge(meta: Mapping[str, Any]) -> dict[str, Any]:
    found = {"token pairs": meta.get("n"), "lambda / n": meta.get("tau")}
    fve = {f"variance explained: {k}": v for k, v in (meta.get("fve") or {}).items()}
    return found | fve


def _pairs(values: Mapping[str, Any]) -> Html:
    return table(["", "value"], [[str(k).replace("_", " "), number(v)] for k, v in values.items()])


def _features(result: Mapping[str, Any]) -> Html:
    rows = [
        [
            feature["name"],
            feature["native"][0],
            feature["foreign"][0],
            *(number(feature.get(key), 2) for key in ("lift_spec", "t", "rho", "split_half")),
        ]
        for feature in sorted(result["features"], key=lambda f: -f["lift_spec"])
    ]
    note = element(
        "p",
        "t is the share of the mapped direction that is not noise of the fit, rho what the penalty "
        "leaves of the direction, r the cosine of the maps of two halves of the documents. A low "
        "lift with t below 0.3 tells of too few pairs, not of another meaning.",
    )
    heads = ["feature", "native explanation", "foreign explanation", "lift", "t", "rho", "r"]
    return element("div", note, table(heads, rows))
