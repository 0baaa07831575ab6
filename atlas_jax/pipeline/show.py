"""What a user is told while an experiment runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Show(Protocol):
    """How a user is told what happens."""

    def stage(self, number: int, title: str) -> None: ...

    def line(self, text: str) -> None: ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...


def show_corpus(counts: Mapping[str, Mapping[str, int]], show: Show) -> None:
    """How many sentences were left after each filter."""
    sources = sorted({source for by in counts.values() for source in by})
    rows = [
        [stage, *(f"{by.get(source, 0):,}" for source in sources), f"{sum(by.values()):,}"]
        for stage, by in counts.items()
    ]
    show.table(["stage", *sources, "all"], rows)


def show_maps(maps: Mapping[str, Mapping[str, Any]], n: int, show: Show) -> None:
    """The translations."""
    for site, methods in maps.items():
        t = next(iter(methods.values()))
        ds, dc = t.matrix.shape
        show.line(
            f"{site}: {', '.join(methods)} ({ds} x {dc}; {n:,} samples, {n / ds:.1f} for each "
            "subject feature)"
        )


def _interval(row: Mapping[str, Any], metric: str) -> str:
    mean, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def show_quality(quality: Mapping[str, Any], show: Show) -> None:
    """Means and intervals by method and site."""
    first = next(iter(quality.values()))
    names = [row["method"] for row in first["methods"]]
    for metric, title in (("auroc", "AUROC"), ("ap", "AP")):
        rows = []
        for i, name in enumerate(names):
            cells = [_interval(site["methods"][i], metric) for site in quality.values()]
            rows.append(["random directions" if name == "random" else name, *cells])
        show.table([f"{title} (mean, 95 %)", *quality], rows)
    show.line(
        f"{first['n_features']} atlas features, {first['n_samples']:,} held-out samples, AP base "
        f"rate {first['base_rate']:.3f}, seed {first['seed']}"
    )


def show_query(query: Mapping[str, Any], show: Show) -> None:
    """What a query found."""
    show.line(f'query "{query["name"]}"')
    for feature in query["features"]:
        show.line(
            f"    {feature['weight']:.2f}  atlas feature {feature['feature']}: "
            f"{feature['description']}"
        )
    rows = []
    for neuron in query["neurons"]:
        top = neuron["concepts"][0]["description"] if neuron["concepts"] else ""
        for i, sample in enumerate(neuron["samples"][:3]):
            head = [f"{neuron['site']} #{neuron['feature']}", f"{neuron['score']:.2f}", top]
            rows.append([*(head if i == 0 else ["", "", ""]), sample["text"]])
    show.table(["subject feature", "score", "nearest concept", "held-out samples"], rows)


def show_steering(result: Mapping[str, Any], show: Show) -> None:
    """What was written along a query."""
    show.line(f'"{result["prompt"]} ..." towards "{result["query"]}"')
    rows = [
        [o["label"], f"{o['strength']:g}", " ".join(o["text"].split())] for o in result["outputs"]
    ]
    show.table(["where", "strength", "continuation"], rows)


def show_retrieval(reports: Mapping[str, Any], show: Show) -> None:
    """MRR and MPP by method and site."""
    first = next(iter(reports.values()))
    for metric in ("mrr", "mpp"):
        rows = [
            [row["method"], *(_interval(r["methods"][i], metric) for r in reports.values())]
            for i, row in enumerate(first["methods"])
        ]
        show.table([f"{metric.upper()} (mean, 95 %)", *reports], rows)
    kept = ", ".join(f"{r['n_features']} of {r['n_sets']}" for r in reports.values())
    chance = first["random"]
    show.line(
        f"{kept} features have valid sets; chance: MRR {chance['mrr']:.4f}, MPP "
        f"{chance['mpp']:.4f}; sets: {first['source']}"
    )
