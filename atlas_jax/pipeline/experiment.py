"""A whole experiment: from a recipe to a run folder with its report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from atlas_jax.assets import ASSETS
from atlas_jax.atlas import Atlas, load_atlas
from atlas_jax.corpus import Corpus
from atlas_jax.errors import InputError
from atlas_jax.evaluate import ConceptSets, sets_from_texts
from atlas_jax.models import LanguageModel, load_model, parse_site
from atlas_jax.parallel import barrier, leads, models_mesh, processes_of
from atlas_jax.pipeline.concepts import find, make_query, write_steered
from atlas_jax.pipeline.evaluation import layers_of
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.pipeline.show import (
    Show,
    show_corpus,
    show_maps,
    show_quality,
    show_query,
    show_retrieval,
    show_steering,
)
from atlas_jax.pipeline.stages import (
    check_methods,
    fit_maps,
    fitted,
    make_corpus,
    measure,
    record,
    recorded,
    retrieve,
)
from atlas_jax.report import save_plots, save_report

STAGES = {
    "models": "Models",
    "corpus": "Corpus",
    "capture": "Activations",
    "fit": "Translations",
    "evaluate": "Quality on held-out samples",
    "retrieval": "Retrieval of subject features",
    "identify": "Concepts found in the subject",
    "steer": "Steering",
    "report": "Report",
}
"""The stages in their order, and their titles."""
SHARED = ("models", "corpus", "capture", "fit", "evaluate")
"""What several processes do together; the first does the rest while the others wait, unless its
models lie over all of them."""

T = TypeVar("T")


def run_experiment(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    show: Show,
    splitter: Any = None,
    only: str | None = None,
    split: int = 1,
) -> Path:
    """Does everything a recipe asks for; what an earlier run finished is taken from the folder.

    Several subjects (`also`) get a folder each within this one, and share its corpus and the
    atlas's activations.

    Args:
        recipe: what to do.
        folder: of the run.
        show: tells the user.
        splitter: sentence tokenizer of the corpus; default: NLTK's English one.
        only: a key of `STAGES`: that stage alone, on what the earlier ones left in the folder.
        split: devices that share a model's weights; the others share batches.

    Returns:
        The report, that of the last subject; with `only`, the run folder.

    Raises:
        InputError: whatever the stages refuse, or a stage before `only` that is not done.
    """
    started = time.perf_counter()
    if only is not None and only not in STAGES:
        raise InputError(f"Expected --only with one of {', '.join(STAGES)}, got '{only}'.")
    check_methods(recipe)
    common = run = Run(folder, recipe, show.line)
    if jax.process_count() > 1:
        common.check_shared()
    shared = SHARED
    if len(processes_of(models_mesh(split))) > 1:
        shared = tuple(stage for stage in STAGES if stage != "report")
    for name, own in recipe.subjects().items():
        if name:
            show.line(f"== {name}")
        run = Run(common.folder / name, own, show.line) if name else common
        barrier("every process has read what was done before")
        experiment = Experiment(run, common, show, splitter, only, split)
        for number, (stage, title) in enumerate(STAGES.items(), 1):
            if only in (None, stage) and (leads() or stage in shared):
                show.stage(number, title)
                getattr(experiment, f"do_{stage}")()
    barrier("the first process is done")
    if only not in (None, "report"):
        return common.folder
    path = run.folder / "report.html"
    took = time.perf_counter() - started
    show.line(f"Done in {took:.0f} s. The report is {path.absolute()}")
    return path


class Experiment:
    """One subject's way through the stages: each is done once, or opened if only another is wanted.

    Args:
        run: the subject's folder.
        common: the folder of what several subjects share.
        show: tells the user.
        splitter: sentence tokenizer of the corpus.
        only: the one stage that is done; None: all.
        split: devices that share a model's weights.
    """

    def __init__(
        self,
        run: Run,
        common: Run,
        show: Show,
        splitter: Any = None,
        only: str | None = None,
        split: int = 1,
    ) -> None:
        self.run, self.common, self.show, self.only, self.split = run, common, show, only, split
        self.recipe, self.splitter = run.recipe, splitter

    def _result(self, stage: str, do: Callable[[], T], kept: Callable[[], T]) -> T:
        if self.only in (None, stage):
            return do()
        try:
            return kept()
        except (InputError, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"Expected the stage '{stage}' to be done in {self.run.folder} ({reason}). Leave "
                f"--only out, or do it first: --only {stage}."
            ) from None

    @cached_property
    def model(self) -> LanguageModel:
        subject = self.recipe.subject
        return load_model(subject.model, subject.dtype, models_mesh(self.split))

    @cached_property
    def atlas(self) -> Atlas:
        atlas = self.recipe.atlas
        return load_atlas(atlas.reference, dtype=atlas.dtype, mesh=models_mesh(self.split))

    @cached_property
    def sites(self) -> tuple[str, ...]:
        if self.recipe.subject.sites:
            return self.recipe.subject.sites
        if self.only in (None, "models", "capture"):
            return tuple(self.model.sites)
        return self.stores["train"]["subject"].sites

    @cached_property
    def corpus(self) -> Corpus:
        source = self.recipe.corpus
        return self._result(
            "corpus",
            lambda: make_corpus(self.common, source, self.splitter),
            lambda: Corpus.load(self.common.folder / "corpus"),
        )

    @cached_property
    def stores(self) -> dict[str, Any]:
        return self._result(
            "capture",
            lambda: record(self.run, self.model, self.atlas, self.corpus, self.sites, self.common),
            lambda: recorded(self.run, self.common),
        )

    @cached_property
    def maps(self) -> dict[str, Any]:
        return self._result(
            "fit",
            lambda: fit_maps(self.run, self.stores["train"], self.sites),
            lambda: fitted(self.run, self.sites),
        )

    @cached_property
    def quality(self) -> dict[str, Any]:
        return self._result(
            "evaluate",
            lambda: measure(self.run, self.maps, self.stores),
            lambda: self.run.read_json("reports/quality.json"),
        )

    @cached_property
    def retrieval(self) -> dict[str, Any]:
        asked = self.recipe.retrieval.features or self.recipe.retrieval.sets
        return self._result(
            "retrieval",
            lambda: retrieve(self.run, self.maps, self.stores, self._read_sets),
            lambda: self.run.read_json("reports/retrieval.json") if asked else {},
        )

    def _read_sets(self, texts: Mapping[int, Sequence[str]], site: str) -> ConceptSets:
        capture, source = self.recipe.capture, self.recipe.retrieval.sets
        subject: Any = self.model
        atlas: Any = self.atlas
        reading = {
            "pool": capture.pool,
            "batch_tokens": capture.batch_tokens,
            "max_tokens": capture.max_tokens,
        }
        return sets_from_texts(subject, site, atlas, texts, source=source, **reading)

    @cached_property
    def queries(self) -> list[dict[str, Any]]:
        def do() -> list[dict[str, Any]]:
            held = self.stores["eval"]["subject"]
            return find(self.run, self.maps, self.model, self.atlas, held, self.corpus.eval)

        asked = self.recipe.identify.queries
        return self._result(
            "identify", do, lambda: self.run.read_json("reports/queries.json") if asked else []
        )

    @cached_property
    def steering(self) -> list[dict[str, Any]]:
        asked = self.recipe.steer.strengths and self.recipe.identify.queries
        return self._result(
            "steer",
            lambda: write_steered(self.run, self.maps, self.model, self.atlas, self.sites),
            lambda: self.run.read_json("reports/steering.json") if asked else [],
        )

    def do_models(self) -> None:
        for site in self.sites:
            parse_site(site, self.model.arch)
        self.show.line(f"subject: {self.model!r}")
        self.show.line(f"sites:   {', '.join(self.sites)}")
        self.show.line(f"atlas:   {self.atlas!r}")
        self.show.line(f"read in: {self.atlas.model!r}")
        asked = (*self.recipe.identify.queries, *self.recipe.evaluate_steering.queries)
        for query in asked:
            make_query(self.atlas, query)  # refused now, or not at all

    def do_corpus(self) -> None:
        show_corpus(self.corpus.counts, self.show)

    def do_capture(self) -> None:
        for half, sides in self.stores.items():
            for store in sides.values():
                self.show.line(f"{half}: {store!r}")

    def do_fit(self) -> None:
        show_maps(self.maps, len(self.stores["train"]["subject"]), self.show)

    def do_evaluate(self) -> None:
        show_quality(self.quality["sites"], self.show)

    def do_retrieval(self) -> None:
        if self.retrieval:
            show_retrieval(self.retrieval, self.show)
        else:
            self.show.line("not asked for: retrieval.features is 0")

    def do_identify(self) -> None:
        for query in self.queries:
            show_query(query, self.show)

    def do_steer(self) -> None:
        for result in self.steering:
            show_steering(result, self.show)
        if self.recipe.evaluate_steering.queries:
            self.show.line(
                "The recipe's [evaluate_steering] is not a stage of `run`: type `atlas-jax "
                f"evaluate steering {self.run.folder}`."
            )

    def do_report(self) -> None:
        model, atlas, corpus, quality = self.model, self.atlas, self.corpus, self.quality
        manifest = self.run.manifest
        stages = {**self.common.manifest["stages"], **manifest["stages"]}
        result = {
            "title": f"{model.name} through {atlas.model.name}",
            "created": time.strftime("%Y-%m-%d %H:%M"),
            "versions": manifest["versions"],
            "subject": {
                "name": model.name,
                "sites": list(self.sites),
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
            "timings": {name: stage["seconds"] for name, stage in stages.items()},
            "quality": _quality(quality["sites"]),
            "learning_curve": quality["curve"],
            "retrieval": self.retrieval,
            "queries": self.queries,
            "steering": self.steering,
            "notes": _notes(self.maps, len(corpus.train)),
            "licences": _licences(self.recipe, corpus.counts),
        }
        self.run.write_json("report.json", result)
        save_report(result, self.run.folder / "report.html")
        self.run.keep("report.html")
        self.run.save_manifest()
        save_plots(result, self.run.folder / "reports" / "figures")


def _quality(sites: Mapping[str, Any]) -> dict[str, Any]:
    """The quality of all sites in the form the report draws."""
    first = next(iter(sites.values()))
    shared = {key: first[key] for key in ("n_samples", "n_features", "seed", "base_rate")}
    return {**shared, "layers": layers_of(sites, ("auroc", "ap"))}


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
