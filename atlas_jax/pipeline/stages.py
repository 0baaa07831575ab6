"""The stages of an experiment, each a function from what came before to what is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax.activations import ActivationStore, capture
from atlas_jax.atlas import Atlas
from atlas_jax.corpus import Corpus, Texts, build_corpus
from atlas_jax.errors import InputError
from atlas_jax.evaluate import evaluate_translation
from atlas_jax.identify import Hit, identify
from atlas_jax.models import LanguageModel, generate
from atlas_jax.models.sites import Edit
from atlas_jax.pipeline.recipe import CorpusSource, Recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.query import Query
from atlas_jax.steering import steer
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

    return run.stage("corpus", vars(source), produce, lambda: Corpus.load(folder))


def record(
    run: Run, model: LanguageModel, atlas: Atlas, corpus: Corpus, sites: Sequence[str]
) -> dict[str, dict[str, ActivationStore]]:
    """Captures both models on both halves: {half: {side: store}}."""
    settings = run.recipe.capture
    stores: dict[str, dict[str, ActivationStore]] = {}
    for half, texts in (("train", corpus.train), ("eval", corpus.eval)):
        for side, source in (("subject", model), ("atlas", atlas)):
            out = run.folder / "activations" / half / side

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

            inputs = [source.fingerprint, texts.hash, list(sites), vars(settings)]
            stores.setdefault(half, {})[side] = run.stage(f"capture {half} {side}", inputs, produce)
    return stores


def fit_maps(run: Run, stores: Mapping[str, ActivationStore], sites: Sequence[str]) -> Maps:
    """Fits every method at every site, or loads the saved translations."""
    settings = run.recipe.fit
    folder = run.folder / "translations"

    def file(site: str, method: str) -> Any:
        return folder / site / f"{method}.safetensors"

    def produce() -> Maps:
        rows = {site: stores["subject"][site] for site in sites}
        maps = fit(rows, stores["atlas"], settings.methods, options=options(run.recipe))
        for site, methods in maps.items():
            for name, translation in methods.items():
                translation.save(file(site, name))
        return maps

    def load() -> Maps:
        return {
            site: {name: Translation.load(file(site, name)) for name in settings.methods}
            for site in sites
        }

    inputs = [_names(stores), list(sites), vars(settings)]
    return run.stage("fit", inputs, produce, load)


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
        atlas = _only(held["atlas"])
        quality = {
            site: evaluate_translation(
                methods,
                held["subject"][site],
                atlas,
                features=settings.features,
                seed=settings.seed,
            ).to_dict()
            for site, methods in maps.items()
        }
        curve = _learning_curve(run, maps, stores) if settings.curve else []
        result = {"sites": quality, "curve": curve}
        run.write_json("reports/quality.json", result)
        return result

    inputs = [
        [_names(stores["train"]), _names(stores["eval"])],
        vars(run.recipe.fit),
        vars(settings),
        list(maps),
    ]
    return run.stage("evaluate", inputs, produce, lambda: run.read_json("reports/quality.json"))


def _learning_curve(
    run: Run, maps: Maps, stores: Mapping[str, Mapping[str, ActivationStore]]
) -> list[dict[str, Any]]:
    """Quality at the middle site after fitting on an eighth, a quarter, a half of the samples."""
    site = list(maps)[len(maps) // 2]
    subject, atlas = stores["train"]["subject"][site], _only(stores["train"]["atlas"])
    methods = [name for name in run.recipe.fit.methods if name in CURVE]
    n = subject.shape[0]
    points = []
    for size in sorted({n // 8, n // 4, n // 2, n} - {0}):
        if size == n:
            fitted = {name: maps[site][name] for name in methods}
        else:
            fitted = fit(subject[:size], atlas[:size], methods, options=options(run.recipe))
        report = evaluate_translation(
            fitted,
            stores["eval"]["subject"][site],
            _only(stores["eval"]["atlas"]),
            features=run.recipe.evaluate.features,
            seed=run.recipe.evaluate.seed,
            random_directions=False,
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


def make_query(atlas: Atlas, asked: str | Mapping[str, Any]) -> Query:
    """A query of a recipe: a text, or a table {name, features, weights}."""
    if isinstance(asked, str):
        return atlas.query(text=asked)
    unknown = set(asked) - {"name", "features", "weights"}
    if unknown or "features" not in asked:
        raise InputError(
            "Expected a query as a text, or as a table with features (and name, weights), got "
            f"{dict(asked)}."
        )
    return atlas.query(features=asked["features"], weights=asked.get("weights"))


def query_name(asked: str | Mapping[str, Any], query: Query) -> str:
    """What the user calls a query."""
    return asked if isinstance(asked, str) else str(asked.get("name", query.name))


def find(
    run: Run,
    maps: Maps,
    model: LanguageModel,
    atlas: Atlas,
    store: ActivationStore,
    texts: Texts,
) -> list[dict[str, Any]]:
    """The subject features of each query over all sites, with concepts and samples."""
    settings = run.recipe.identify
    if not settings.queries:
        return []

    def produce() -> list[dict[str, Any]]:
        results = []
        for asked in settings.queries:
            query = make_query(atlas, asked)
            hits: list[Hit] = []
            for site, methods in maps.items():
                translation = methods[_method(run.recipe, settings.method)]
                hits += identify(
                    translation, query, store[site], texts, settings.features, settings.samples
                )
            hits.sort(key=lambda hit: -hit.score)
            results.append(
                {
                    "name": query_name(asked, query),
                    "features": [
                        {"feature": f, "description": atlas.describe(f), "weight": w}
                        for f, w in zip(query.features, query.weights, strict=True)
                    ],
                    "neurons": [_hit(hit, atlas, texts) for hit in hits[: settings.features]],
                }
            )
        _add_heat(results, model, run.recipe.capture.max_tokens)
        run.write_json("reports/queries.json", results)
        return results

    inputs = [_names({"held": store}), vars(settings), vars(run.recipe.fit), atlas.fingerprint]
    inputs.append(run.manifest["stages"].get("fit", {}).get("key"))
    return run.stage("identify", inputs, produce, lambda: run.read_json("reports/queries.json"))


def _hit(hit: Hit, atlas: Atlas, texts: Texts) -> dict[str, Any]:
    return {
        "site": hit.site,
        "feature": hit.feature,
        "score": hit.score,
        "concepts": [
            {"feature": f, "description": atlas.describe(f), "weight": w} for f, w in hit.concepts
        ],
        "samples": [
            {
                "row": sample.row,
                "text": sample.text,
                "activation": sample.activation,
                "source": texts.sources[sample.row],
            }
            for sample in hit.samples
        ],
    }


def _add_heat(results: list[dict[str, Any]], model: LanguageModel, max_tokens: int) -> None:
    """Gives each sample its tokens and how active the feature is at each (0 to 1)."""
    shown = [
        (sample, neuron)
        for result in results
        for neuron in result["neurons"]
        for sample in neuron["samples"]
    ]
    sites = tuple(sorted({neuron["site"] for _, neuron in shown}))
    ids = [row[:max_tokens] for row in model.tokenizer.encode_batch([s["text"] for s, _ in shown])]
    if not ids:
        return
    longest = max(map(len, ids))
    for start in range(0, len(ids), 16):
        part = ids[start : start + 16]
        part += [part[0]] * (16 - len(part))
        acts = model.read(*model.tokenizer.pad(part, longest), sites)
        for i, (sample, neuron) in enumerate(shown[start : start + 16]):
            row = ids[start + i]
            values = np.array(acts[neuron["site"]][i, : len(row), neuron["feature"]], np.float32)
            values[0] = 0.0
            top = max(float(values.max()), 1e-9)
            first = int(row[0] == model.tokenizer.bos_id)
            sample["tokens"] = model.tokenizer.tokens(row[first:])
            sample["heat"] = [round(max(float(v), 0.0) / top, 3) for v in values[first:]]


def write_steered(
    run: Run, maps: Maps, model: LanguageModel, atlas: Atlas, sites: Sequence[str]
) -> list[dict[str, Any]]:
    """The prompt continued unsteered, and along each query at the middle site and at all sites."""
    settings, asked = run.recipe.steer, run.recipe.identify.queries
    if not settings.strengths or not asked:
        return []
    middle = sites[len(sites) // 2]
    places = {middle: [middle], "all sites": list(sites)} if len(sites) > 1 else {middle: [middle]}

    def produce() -> list[dict[str, Any]]:
        plans: list[tuple[int, str, float, list[Edit]]] = []
        names = []
        for i, one in enumerate(asked):
            query = make_query(atlas, one)
            names.append(query_name(one, query))
            scores = {
                site: maps[site][_method(run.recipe, run.recipe.identify.method)].scores(query)
                for site in sites
            }
            for label, where in places.items():
                for strength in settings.strengths:
                    edits = [steer(site, scores[site], strength) for site in where]
                    plans.append((i, label, strength, edits))
        texts = generate(
            model,
            [settings.prompt] * (1 + len(plans)),
            [[], *(edits for *_, edits in plans)],
            settings.max_new_tokens,
            progress="writing",
        )
        plain = {"label": "unsteered", "strength": 0.0, "text": texts[0], "sites": []}
        results = [{"query": name, "prompt": settings.prompt, "outputs": [plain]} for name in names]
        for (i, label, strength, edits), text in zip(plans, texts[1:], strict=True):
            results[i]["outputs"].append(
                {
                    "label": label,
                    "strength": strength,
                    "text": text,
                    "sites": [edit.site for edit in edits],
                }
            )
        run.write_json("reports/steering.json", results)
        return results

    inputs = [
        vars(settings),
        vars(run.recipe.identify),
        vars(run.recipe.fit),
        run.manifest["stages"].get("fit", {}).get("key"),
        model.fingerprint,
        atlas.fingerprint,
    ]
    return run.stage("steer", inputs, produce, lambda: run.read_json("reports/steering.json"))


def _method(recipe: Recipe, name: str) -> str:
    if name not in recipe.fit.methods:
        raise InputError(
            f"Expected a method that was fitted ({', '.join(recipe.fit.methods)}), got '{name}'."
        )
    return name


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
        _method(recipe, recipe.identify.method)


def _only(store: ActivationStore) -> Any:
    return store[store.sites[0]]


def _names(stores: Mapping[str, ActivationStore]) -> list[Any]:
    """What was captured, and not where it lies."""
    return [store.meta for store in stores.values()]
