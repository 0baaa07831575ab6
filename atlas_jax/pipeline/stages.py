"""The stages of an experiment, each a function from what came before to what is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.atlas import Atlas
from atlas_jax.corpus import Corpus, Texts, build_corpus
from atlas_jax.errors import InputError
from atlas_jax.evaluate import (
    ConceptSets,
    evaluate_retrieval,
    evaluate_translation,
    read_sets,
    sets_from_samples,
)
from atlas_jax.models import LanguageModel
from atlas_jax.parallel import leads, sums_mesh
from atlas_jax.pipeline.recipe import CorpusSource, Recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.translate import METHODS, Options, Translation, fit

CURVE = ("covariance", "correlation", "procrustes", "semantic_lens")
"""Methods of the learning curve; regressions cost a decomposition of the atlas Gram for each n."""

Maps = dict[str, dict[str, Translation]]


def make_corpus(run: Run, source: CorpusSource, splitter: Any = None) -> Corpus:
    """Builds the corpus, or loads it."""
    folder = run.folder / "corpus"

    def produce() -> Corpus:
        return build_corpus(
            source.source,
            split=source.split,
            n=source.sequences or None,
            seed=source.seed,
            train_fraction=source.train_fraction,
            splitter=splitter,
            out=folder,
        )

    return run.stage("corpus", vars(source), produce, lambda: Corpus.load(folder), others="load")


def record(
    run: Run,
    model: LanguageModel,
    atlas: Atlas,
    corpus: Corpus,
    sites: Sequence[str],
    common: Run | None = None,
) -> dict[str, dict[str, ActivationStore]]:
    """Captures both models on both halves: {half: {side: store}}; the atlas side in `common`."""
    settings = run.recipe.capture
    stores: dict[str, dict[str, ActivationStore]] = {}
    for half, texts in (("train", corpus.train), ("eval", corpus.eval)):
        for side, source in (("subject", model), ("atlas", atlas)):
            keeper = common if side == "atlas" and common is not None else run
            out = keeper.folder / "activations" / half / side

            def produce(
                source: Any = source, texts: Texts = texts, out: Any = out, half: str = half
            ) -> ActivationStore:
                return capture(
                    source,
                    texts,
                    sites if source is model else None,
                    out=out,
                    pool=settings.pool,
                    batch_tokens=settings.batch_tokens,
                    max_tokens=settings.max_tokens,
                    progress=f"{source.name}, {half}",
                )

            names = list(sites) if source is model else []
            inputs = [source.fingerprint, texts.hash, names, vars(settings)]
            stores.setdefault(half, {})[side] = keeper.stage(
                f"capture {half} {side}",
                inputs,
                produce,
                partial(ActivationStore.open, out),
                others="help",
            )
    return stores


def recorded(run: Run, common: Run) -> dict[str, dict[str, ActivationStore]]:
    """What `record` captured, opened without a model."""
    keepers = {"subject": run, "atlas": common}
    return {
        half: {
            side: ActivationStore.open(keeper.folder / "activations" / half / side)
            for side, keeper in keepers.items()
        }
        for half in ("train", "eval")
    }


def fit_maps(run: Run, stores: Mapping[str, ActivationStore], sites: Sequence[str]) -> Maps:
    """Fits every method at every site, or loads the saved translations."""
    settings = run.recipe.fit
    folder = run.folder / "translations"

    def file(site: str, method: str) -> Any:
        return folder / site / f"{method}.safetensors"

    def produce() -> Maps:
        rows = {site: stores["subject"][site] for site in sites}
        maps = fit(
            rows, stores["atlas"], settings.methods, options=options(run.recipe), mesh=sums_mesh()
        )
        for site, methods in maps.items() if leads() else ():
            for name, translation in methods.items():
                translation.save(file(site, name))
        return maps

    inputs = [names_of(stores), list(sites), vars(settings)]
    return run.stage("fit", inputs, produce, lambda: fitted(run, sites), others="help")


def fitted(run: Run, sites: Sequence[str]) -> Maps:
    """What `fit_maps` saved."""
    folder = run.folder / "translations"
    return {
        site: {
            name: Translation.load(folder / site / f"{name}.safetensors")
            for name in run.recipe.fit.methods
        }
        for site in sites
    }


def options(recipe: Recipe) -> Options:
    """The recipe's settings of the methods."""
    return Options(alpha=recipe.fit.alpha, k=recipe.fit.samples, rcond=recipe.fit.rcond)


def measure(
    run: Run, maps: Maps, stores: Mapping[str, Mapping[str, ActivationStore]]
) -> dict[str, Any]:
    """Translation quality on held-out samples: {site: report}, and the learning curve."""
    settings = run.recipe.evaluate

    def produce() -> dict[str, Any]:
        held = stores["eval"]
        atlas, mesh = _only(held["atlas"]), sums_mesh()
        quality = {
            site: evaluate_translation(
                methods,
                held["subject"][site],
                atlas,
                features=settings.chosen or settings.features,
                seed=settings.seed,
                mesh=mesh,
            ).to_dict()
            for site, methods in maps.items()
        }
        curve = _learning_curve(run, maps, stores) if settings.curve else []
        result = {"sites": quality, "curve": curve}
        run.write_json("reports/quality.json", result)
        return result

    inputs = [
        [names_of(stores["train"]), names_of(stores["eval"])],
        vars(run.recipe.fit),
        vars(settings),
        list(maps),
    ]
    return run.stage(
        "evaluate",
        inputs,
        produce,
        lambda: run.read_json("reports/quality.json"),
        others="help",
    )


def _learning_curve(
    run: Run, maps: Maps, stores: Mapping[str, Mapping[str, ActivationStore]]
) -> list[dict[str, Any]]:
    """Quality at the middle site after fitting on an eighth, a quarter, a half of the samples."""
    site = list(maps)[len(maps) // 2]
    subject, atlas = stores["train"]["subject"][site], _only(stores["train"]["atlas"])
    methods = [name for name in run.recipe.fit.methods if name in CURVE]
    n, mesh = subject.shape[0], sums_mesh()
    points = []
    for size in sorted({n // 8, n // 4, n // 2, n} - {0}):
        if size == n:
            fitted = {name: maps[site][name] for name in methods}
        else:
            rows = subject[:size], atlas[:size]
            fitted = fit(*rows, methods, options=options(run.recipe), mesh=mesh)
        report = evaluate_translation(
            fitted,
            stores["eval"]["subject"][site],
            _only(stores["eval"]["atlas"]),
            features=run.recipe.evaluate.chosen or run.recipe.evaluate.features,
            seed=run.recipe.evaluate.seed,
            random_directions=False,
            mesh=mesh,
        )
        points.append(
            {
                "n": size,
                "site": site,
                "methods": {
                    name: {metric: report.mean(name, metric).mean for metric in ("auroc", "ap")}
                    for name in methods
                },
            }
        )
    return points


def retrieve(
    run: Run,
    maps: Maps,
    stores: Mapping[str, Mapping[str, ActivationStore]],
    read: Callable[[Mapping[int, Sequence[str]], str], ConceptSets],
) -> dict[str, Any]:
    """Retrieval of subject features: {site: report}; empty where none are asked for.

    Args:
        run: the run.
        maps: the translations.
        stores: of both halves.
        read: has both models read texts by feature, for sets that come from a file.
    """
    settings = run.recipe.retrieval
    if not settings.features and not settings.sets:
        return {}
    texts = read_sets(settings.sets) if settings.sets else {}

    def produce() -> dict[str, Any]:
        result = {}
        for site, methods in maps.items():
            if texts:
                sets = read(texts, site)
            else:
                sets = sets_from_samples(
                    stores["eval"]["subject"][site],
                    _only(stores["eval"]["atlas"]),
                    settings.features,
                    settings.samples,
                    settings.seed,
                )
            report = evaluate_retrieval(
                methods, sets, validity=settings.validity, seed=settings.seed
            )
            result[site] = report.to_dict()
        run.write_json("reports/retrieval.json", result)
        return result

    inputs = [names_of(stores["train"]), names_of(stores["eval"]), vars(run.recipe.fit)]
    inputs += [vars(settings), list(maps), sorted(texts.items())]
    return run.stage("retrieval", inputs, produce, lambda: run.read_json("reports/retrieval.json"))


def check_methods(recipe: Recipe) -> None:
    """Refuses unknown methods before anything long begins.

    Raises:
        InputError: a method that does not exist, or one to search by that is not fitted.
    """
    unknown = [name for name in recipe.fit.methods if name not in METHODS]
    if unknown or not recipe.fit.methods:
        raise InputError(
            f"Expected methods among {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}."
        )
    if recipe.identify.queries:
        fitted_method(recipe, recipe.identify.method)


def fitted_method(recipe: Recipe, name: str) -> str:
    """The name, if that method is fitted.

    Raises:
        InputError: it is not.
    """
    if name not in recipe.fit.methods:
        raise InputError(
            f"Expected a method that was fitted ({', '.join(recipe.fit.methods)}), got '{name}'."
        )
    return name


def _only(store: ActivationStore) -> Any:
    return store[store.sites[0]]


def names_of(stores: Mapping[str, ActivationStore]) -> list[Any]:
    """What was captured, and not where it lies."""
    return [store.meta for store in stores.values()]
