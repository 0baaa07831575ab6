"""The sections of a report: each takes the result and returns markup, or None without data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atlas_jax.report import plots
from atlas_jax.report.markup import Html, element, join, number, table
from atlas_jax.report.plots import METRICS, RANDOM, Plots, methods_of

Result = Mapping[str, Any]
Section = Callable[[Result], Html | None]


def summary(result: Result) -> Html | None:
    """What was done, in a few sentences, and the result in one."""
    subject, atlas = result.get("subject") or {}, result.get("atlas") or {}
    corpus = result.get("corpus") or {}
    said: list[object] = []
    if subject and atlas:
        said.append(
            f"The subject {subject.get('name')} was read through the atlas {atlas.get('name')}: "
            f"{number(atlas.get('features'))} labelled features of {atlas.get('model')} at "
            f"{atlas.get('site')}. "
        )
    if corpus.get("train") is not None:
        said.append(
            f"Linear translations between the two were fitted on {number(corpus['train'])} texts "
            f"and tested on {number(corpus.get('eval'))} others. "
        )
    chances = {"auroc": 0.5, "ap": (result.get("quality") or {}).get("base_rate")}
    for metric, name in (("auroc", "AUROC"), ("ap", "average precision")):
        best = _best(result, metric)
        if best:
            site, method, scores = best
            said.append(f"The best {name} on them is that of ")
            said.append(element("strong", f"{method} at {site}"))
            said.append(f": {_mean(scores, metric)}, chance being {number(chances[metric])}. ")
    facts = {
        "Subject": subject.get("name"),
        "Its parameters": subject.get("params"),
        "Its sites": ", ".join(subject.get("sites") or []) or None,
        "Atlas": atlas.get("name"),
        "Its model and site": " · ".join(filter(None, (atlas.get("model"), atlas.get("site")))),
        "Its features": atlas.get("features"),
        **{_spoken(name): value for name, value in (atlas.get("card") or {}).items()},
    }
    rows = [
        element("div", element("dt", name), element("dd", _value(value)))
        for name, value in facts.items()
        if value not in (None, "")
    ]
    if not said and not rows:
        return None
    return join([element("p", *said, class_="lead"), element("dl", *rows, class_="facts")])


def quality(result: Result) -> Html | None:
    """Methods by sites: AUROC and average precision with 95 % intervals, the best in bold."""
    found = result.get("quality") or {}
    layers = found.get("layers") or {}
    if not layers:
        return None
    methods, base = methods_of(layers), found.get("base_rate")
    best = {
        (site, metric): max((_score(by.get(m), metric) for m in methods), default=-math.inf)
        for site, by in layers.items()
        for metric in METRICS
    }

    def cell(site: str, method: str, metric: str) -> Html:
        triple = (layers[site].get(method) or {}).get(metric)
        if not triple:
            return element("td", "–", class_="n")
        mean = number(triple[0])
        top = method != RANDOM and _score(layers[site][method], metric) == best[site, metric]
        spread = element("small", f"{number(triple[1])} – {number(triple[2])}")
        return element("td", element("strong" if top else "span", mean), spread, class_="n")

    def row(name: str, cells: Sequence[Html], class_: str | None = None) -> Html:
        return element("tr", element("th", name, scope="row"), *cells, class_=class_)

    rows = [row(m, [cell(s, m, x) for s in layers for x in METRICS]) for m in methods]
    if any(RANDOM in by for by in layers.values()):
        cells = [cell(s, RANDOM, x) for s in layers for x in METRICS]
        rows.append(row("random", cells, "floor"))
    chances = [0.5 if x == "auroc" else base for _ in layers for x in METRICS]
    cells = [element("td", number(c), class_="n") for c in chances]
    rows.append(row("base rate", cells, "floor"))
    sites = [element("th", site, scope="colgroup", colspan=len(METRICS)) for site in layers]
    short = [element("th", x.upper(), scope="col", class_="n") for _ in layers for x in METRICS]
    head = [
        element("tr", element("th", "Method", rowspan=2, scope="col"), *sites),
        element("tr", *short),
    ]
    grid = element("table", element("thead", *head), element("tbody", *rows), class_="quality")
    note = (
        f"{number(found.get('n_samples'))} held-out texts, {number(found.get('n_features'))} atlas "
        f"features, seed {found.get('seed')}. Each feature is a query: a text counts as relevant "
        "when the feature is active on it, and the translated query ranks the texts by the "
        "subject's activations alone. Cells: mean over features, 95\N{NO-BREAK SPACE}% interval "
        "below it."
    )
    box = element(
        "div", grid, class_="scroll", tabindex=0, role="region", aria_label="Translation quality"
    )
    return join([element("p", note), box, _shown(plots.quality(result))])


def features(result: Result) -> Html | None:
    """How the values of single features are spread."""
    return _shown(plots.features(result))


def retrieval(result: Result) -> Html | None:
    """Subject features found again by texts that activate them: MRR and MPP."""
    sites = result.get("retrieval") or {}
    if not sites:
        return None
    rows = []
    for site, found in sites.items():
        rows += [
            [site, row["method"], *(_between(row, metric) for metric in ("mrr", "mpp"))]
            for row in found["methods"]
        ]
        chance = found.get("random") or {}
        rows.append([site, "chance", number(chance.get("mrr")), number(chance.get("mpp"))])
    first = next(iter(sites.values()))
    note = (
        f"{number(first.get('texts_of_a_set'))} texts for each subject feature "
        f"({first.get('source')}), kept by the rule {first.get('validity')}. The mean reading "
        "of a feature's texts by the atlas is the query; of all scores, its own should be best. "
        "MRR: mean reciprocal rank (eq. 10); MPP: mean softmax share of the feature's own score "
        "among the standardised ones (eq. 11); both are 1 at best."
    )
    head = ["Site", "Method", "MRR", "MPP"]
    numbers = table(head, rows, "Mean over features, 95 % interval")
    return join([element("p", note), numbers, _shown(plots.retrieval(result))])


def _between(row: Mapping[str, Any], metric: str) -> str:
    mean, low, high = (number(row.get(f"{metric}{end}")) for end in ("", "_low", "_high"))
    return f"{mean} ({low} – {high})"


def learning(result: Result) -> Html | None:
    """How the metrics grow with the number of training texts, at each site."""
    return _shown(plots.learning(result))


def _shown(drawings: Plots) -> Html | None:
    shown = [
        join([element("h3", title), drawing.inline(name)])
        for name, (title, drawing) in drawings.items()
    ]
    return join(shown) if shown else None


def corpus(result: Result) -> Html | None:
    """Texts left after each stage of the corpus, by source."""
    found = result.get("corpus") or {}
    counts = found.get("counts") or {}
    if not counts:
        return None
    sources = sorted({source for by in counts.values() for source in by})
    rows = [
        [stage, *(number(by.get(source, 0)) for source in sources), number(sum(by.values()))]
        for stage, by in counts.items()
    ]
    return table(["Stage", *sources, "All"], rows, "Texts left after each stage")


def making(result: Result) -> Html | None:
    """Timings, versions, hashes and licences: what is needed to make it again."""
    timings = result.get("timings") or {}
    parts = []
    if timings:
        rows = [[stage, f"{seconds:,.1f}"] for stage, seconds in timings.items()]
        rows.append(["all", f"{sum(timings.values()):,.1f}"])
        parts.append(table(["Stage", "Seconds"], rows, "Time"))
    if result.get("versions"):
        rows = [[name, str(value)] for name, value in sorted(result["versions"].items())]
        parts.append(table(["Package", "Version"], rows, "Versions"))
    found = (result.get("corpus") or {}).get("hash")
    if found:
        parts.append(element("p", "Corpus sha256 ", element("code", found), class_="hash"))
    for title, lines in (("Notes", "notes"), ("Licences", "licences")):
        if result.get(lines):
            listed = element("ul", *(element("li", line) for line in result[lines]))
            parts.append(join([element("h3", title), listed]))
    return join(parts) if parts else None


def _best(result: Result, metric: str) -> tuple[str, str, Mapping[str, Any]] | None:
    layers = (result.get("quality") or {}).get("layers") or {}
    found = [(s, m, by[m]) for s, by in layers.items() for m in methods_of(layers) if m in by]
    return max(found, key=lambda item: _score(item[2], metric), default=None)


def _score(scores: Mapping[str, Any] | None, metric: str) -> float:
    """The mean, as it sorts: missing values come last."""
    mean = ((scores or {}).get(metric) or [None])[0]
    return -math.inf if mean is None or math.isnan(mean) else float(mean)


def _mean(scores: Mapping[str, Any], metric: str) -> str:
    return number((scores.get(metric) or [None])[0])


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else number(value)


def _spoken(name: str) -> str:
    known = {
        "fve": "Variance it explains",
        "l0": "Features active per token",
        "dead_share": "Share of features never active",
        "ce_clean": "Cross-entropy of its model",
        "ce_spliced": "Cross-entropy when spliced in",
        "ce_mean_ablated": "Cross-entropy with the mean instead",
        "ce_zero_ablated": "Cross-entropy with zero instead",
        "ce_recovered": "Loss recovered, against the mean",
        "ce_recovered_from_zero": "Loss recovered, against zero",
    }
    return known.get(name, name.replace("_", " ").capitalize())
