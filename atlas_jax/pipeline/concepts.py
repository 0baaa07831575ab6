"""The stages that ask the subject about concepts: searching it, and steering it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.activations import ActivationStore
from atlas_jax.atlas import Atlas
from atlas_jax.corpus import Texts
from atlas_jax.errors import InputError
from atlas_jax.identify import Hit, identify
from atlas_jax.models import LanguageModel, generate
from atlas_jax.models.sites import Edit
from atlas_jax.pipeline.run import Run
from atlas_jax.pipeline.stages import Maps, fitted_method, names_of
from atlas_jax.pipeline.token_heat import read_heat
from atlas_jax.query import Query
from atlas_jax.steering import steer


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
                translation = methods[fitted_method(run.recipe, settings.method)]
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

    inputs = [names_of({"held": store}), vars(settings), vars(run.recipe.fit), atlas.fingerprint]
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
    places = [(sample["text"], neuron["site"], neuron["feature"]) for sample, neuron in shown]
    for (sample, _), (tokens, heat) in zip(
        shown, read_heat(model, places, max_tokens), strict=True
    ):
        sample["tokens"], sample["heat"] = tokens, heat


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
                site: maps[site][fitted_method(run.recipe, run.recipe.identify.method)].scores(
                    query
                )
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
