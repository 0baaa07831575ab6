"""A whole experiment: from a recipe to a run folder with its report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from atlas_jax.assets import ASSETS
from atlas_jax.atlas import Atlas, load_atlas
from atlas_jax.models import LanguageModel, load_model, parse_site
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.pipeline.stages import (
    check_methods,
    find,
    fit_maps,
    make_corpus,
    make_query,
    measure,
    record,
    write_steered,
)
from atlas_jax.report import save_report

STAGES = (
    "Models",
    "Corpus",
    "Activations",
    "Translations",
    "Quality on held-out samples",
    "Concepts found in the subject",
    "Steering",
    "Report",
)


class Show(Protocol):
    """How a user is told what happens."""

    def stage(self, number: int, title: str) -> None: ...

    def line(self, text: str) -> None: ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...


def run_experiment(
    recipe: Recipe, folder: str | os.PathLike[str], show: Show, splitter: Any = None
) -> Path:
    """Does everything a recipe asks for; what an earlier run finished is taken from the folder.

    Args:
        recipe: what to do.
        folder: of the run.
        show: tells the user.
        splitter: sentence tokenizer of the corpus; default: NLTK's English one.

    Returns:
        The report.

    Raises:
        InputError: whatever the stages refuse.
    """
    started = time.perf_counter()
    check_methods(recipe)
    run = Run(folder, recipe, show.line)
    show.stage(1, STAGES[0])
    model, atlas, sites = _load(run, show)
    show.stage(2, STAGES[1])
    corpus = make_corpus(run, recipe.corpus, splitter)
    _show_corpus(corpus.counts, show)
    show.stage(3, STAGES[2])
    stores = record(run, model, atlas, corpus, sites)
    for half, sides in stores.items():
        for store in sides.values():
            show.line(f"{half}: {store!r}")
    show.stage(4, STAGES[3])
    maps = fit_maps(run, stores["train"], sites)
    _show_maps(maps, len(corpus.train), show)
    show.stage(5, STAGES[4])
    quality = measure(run, maps, stores)
    _show_quality(quality["sites"], show)
    show.stage(6, STAGES[5])
    queries = find(run, maps, model, atlas, stores["eval"]["subject"], corpus.eval)
    for query in queries:
        _show_query(query, show)
    show.stage(7, STAGES[6])
    steering = write_steered(run, maps, model, atlas, sites)
    for result in steering:
        _show_steering(result, show)
    show.stage(8, STAGES[7])
    result = {
        "title": f"{model.name} through {atlas.model.name}",
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "versions": run.manifest["versions"],
        "subject": {
            "name": model.name,
            "sites": list(sites),
            "params": model.n_params,
            "fingerprint": model.fingerprint,
        },
        "atlas": {
            "name": atlas.name,
            "model": atlas.model.name,
            "site": atlas.site,
            "features": atlas.sae.n_features,
            "card": _figures(atlas.card),
            "fingerprint": atlas.fingerprint,
        },
        "corpus": {
            "hash": corpus.hash,
            "counts": corpus.counts,
            "train": len(corpus.train),
            "eval": len(corpus.eval),
        },
        "timings": {name: stage["seconds"] for name, stage in run.manifest["stages"].items()},
        "quality": _layers(quality["sites"]),
        "learning_curve": quality["curve"],
        "queries": queries,
        "steering": steering,
        "notes": _notes(maps, len(corpus.train)),
        "licences": _licences(recipe, corpus.counts),
    }
    run.write_json("report.json", result)
    path = run.folder / "report.html"
    save_report(result, path)
    show.line(f"Done in {time.perf_counter() - started:.0f} s. The report is {path.absolute()}")
    return path


def _load(run: Run, show: Show) -> tuple[LanguageModel, Atlas, tuple[str, ...]]:
    recipe = run.recipe
    model = load_model(recipe.subject.model, recipe.subject.dtype)
    sites = recipe.subject.sites or model.sites
    for site in sites:
        parse_site(site, model.arch)
    show.line(f"subject: {model!r}")
    show.line(f"sites:   {', '.join(sites)}")
    atlas = load_atlas(recipe.atlas.reference, dtype=recipe.atlas.dtype)
    show.line(f"atlas:   {atlas!r}")
    show.line(f"read in: {atlas.model!r}")
    for asked in recipe.identify.queries:
        make_query(atlas, asked)  # refused now, or not at all
    return model, atlas, tuple(sites)


def _show_corpus(counts: Mapping[str, Mapping[str, int]], show: Show) -> None:
    sources = sorted({source for by in counts.values() for source in by})
    rows = [
        [stage, *(f"{by.get(source, 0):,}" for source in sources), f"{sum(by.values()):,}"]
        for stage, by in counts.items()
    ]
    show.table(["stage", *sources, "all"], rows)


def _show_maps(maps: Mapping[str, Mapping[str, Any]], n: int, show: Show) -> None:
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


def _show_quality(quality: Mapping[str, Any], show: Show) -> None:
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


def _show_query(query: Mapping[str, Any], show: Show) -> None:
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


def _show_steering(result: Mapping[str, Any], show: Show) -> None:
    show.line(f'"{result["prompt"]} ..." towards "{result["query"]}"')
    rows = [
        [o["label"], f"{o['strength']:g}", " ".join(o["text"].split())] for o in result["outputs"]
    ]
    show.table(["where", "strength", "continuation"], rows)


def _layers(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The quality of all sites in the form the report draws."""
    first = next(iter(quality.values()))
    shared = {key: first[key] for key in ("n_samples", "n_features", "seed", "base_rate")}
    layers: dict[str, Any] = {}
    for site, report in quality.items():
        layers[site] = {}
        for row in report["methods"]:
            entry: dict[str, Any] = {}
            for metric in ("auroc", "ap"):
                entry[metric] = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
                entry[f"{metric}_per_feature"] = report["per_feature"][row["method"]][metric]
            layers[site][row["method"]] = entry
    return {**shared, "layers": layers}


def _figures(card: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of an atlas's card; its lists are for its own folder."""
    return {k: v for k, v in card.items() if isinstance(v, int | float | str)}


def _notes(maps: Mapping[str, Mapping[str, Any]], n: int) -> list[str]:
    notes = []
    for site, methods in maps.items():
        if "procrustes" in methods:
            t = methods["procrustes"]
            found = t.meta["options"]
            notes.append(
                f"Procrustes at {site}: rank {found['rank']} of {min(t.matrix.shape)}, "
                f"{found['constraint']}, residual {found['residual']:.1e}."
            )
    matrix = next(iter(next(iter(maps.values())).values())).matrix
    notes.append(f"Samples for each subject feature, N / d_s: {n / np.shape(matrix)[0]:.2f}.")
    return notes


def _licences(recipe: Recipe, counts: Mapping[str, Any]) -> list[str]:
    sources = {source for by in counts.values() for source in by}
    names = {recipe.subject.model, "smollm2-135m-instruct", "all-minilm-l6-v2"}
    names |= {f"text-{source}" for source in sources}
    return [f"{name}: {ASSETS[name].licence}" for name in sorted(names) if name in ASSETS]
