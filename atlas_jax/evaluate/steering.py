"""Steering: do texts express the concept that the model was steered towards? (paper, table 5)"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_jax.errors import InputError
from atlas_jax.evaluate.judges import Judge
from atlas_jax.evaluate.steering_protocol import paper_protocol
from atlas_jax.evaluate.steering_readings import read_features
from atlas_jax.evaluate.steering_report import RANDOM, SteeringReport
from atlas_jax.journal import digest
from atlas_jax.models import LanguageModel
from atlas_jax.progress import Bar
from atlas_jax.query import Query
from atlas_jax.steering import Journal, Plan, Sampling, random_scores, steer, write_steered
from atlas_jax.translate.translation import Translation

COMBINED = "combined"
_RATED_AT_ONCE = 512

Directions = dict[str, dict[str, dict[str, np.ndarray]]]
"""{method: {site: {query: s (d_s,)}}}"""


def evaluate_steering(
    model: LanguageModel,
    atlas: Any,
    translations: Iterable[Translation] | Mapping[str, Mapping[str, Translation]],
    queries: Mapping[str, Query],
    *,
    judges: Sequence[Judge],
    prompts: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
    combined: bool = True,
    random_directions: bool = True,
    directions: Directions | None = None,
    mode: str = "steer",
    sampling: Sampling | None = None,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    left_out: Mapping[str, str] | None = None,
) -> SteeringReport:
    """Steers along each query at each site, and at all of them, and has the texts judged.

    faithfulness = max_i (r_i - r_0) / (1 - r_0) x 100   (eq. 5)

    with r_i the share of the prompts' continuations that express the query at strength i. Beside
    it: the change of the query's own atlas features in the text, read through the atlas's model.

    Args:
        model: the subject.
        atlas: whose features the queries are.
        translations: of its sites, as `fit` gives them; a generator is read one at a time.
        queries: {concept in words: query}; see `protocol_queries`.
        judges: who rates; the first one's ratings count, the others' agreement is reported.
        prompts: what is continued; default: the protocol's sixteen.
        strengths: lambda; 0 is added. Default: the protocol's seven, which suit models whose
            activations have the paper's size.
        combined: also steer at all sites at once.
        random_directions: also steer along Gaussian directions, each of the norm of the Procrustes
            scores of its query and site (or of the first method's): the method `random`.
        directions: further methods, such as `difference_of_means` of examples.
        mode: see `steer`.
        sampling: how texts are continued; default: greedily, 100 tokens.
        out: a folder for texts, readings and ratings; what is there is not done again.
        batch_size: texts generated together.
        seed: of random directions and bootstrap.
        left_out: {concept: reason} to report, from `protocol_queries`.

    Raises:
        InputError: no query, judge or strength, directions that do not match, or whatever the
            model, the atlas or a judge refuses.
    """
    protocol = paper_protocol()
    asked = protocol.prompts if prompts is None else tuple(prompts)
    lambdas = _with_zero(protocol.strengths if strengths is None else strengths)
    if not queries or not judges or not asked:
        raise InputError("Expected at least one query, one judge and one prompt.")
    if len({judge.name for judge in judges}) < len(judges):
        raise InputError("Expected judges of different names: give one of them another.")
    found = query_directions(translations, queries)
    for method, by_site in (directions or {}).items():
        found[method] = by_site
    sites = _shared_sites(found, queries)
    if random_directions:
        found[RANDOM] = _random(found, sites, queries, seed)
    places: dict[str, tuple[str, ...]] = {site: (site,) for site in sites}
    if combined and len(sites) > 1:
        places[COMBINED] = sites
    order = list(product(found, places, queries, lambdas))
    plans = [
        Plan(
            {"method": method, "place": place, "query": query, "strength": strength},
            [steer(s, found[method][s][query], strength, mode) for s in places[place]],
        )
        for method, place, query, strength in order
    ]
    sampling = sampling or Sampling(max_new_tokens=protocol.max_new_tokens)
    folder = None if out is None else Path(out)
    rows = write_steered(
        model, plans, asked, folder and folder / "texts.jsonl", sampling, batch_size
    )
    shape = (len(found), len(places), len(queries), len(lambdas), len(asked))
    texts = np.array([row["text"] for plan in rows for row in plan], dtype=object)
    concepts = [plan.label["query"] for plan in plans for _ in asked]
    features = {name: query.features or _active(query) for name, query in queries.items()}
    readings = read_features(
        atlas,
        texts.tolist(),
        [features[concept] for concept in concepts],
        folder and folder / "readings.jsonl",
    )
    ratings = {
        judge.name: rate(judge, concepts, texts.tolist(), folder and folder / "ratings.jsonl")
        for judge in judges
    }
    return SteeringReport(
        methods=tuple(found),
        places=tuple(places),
        queries=tuple(queries),
        strengths=lambdas,
        prompts=asked,
        ratings={name: values.reshape(shape) for name, values in ratings.items()},
        activations=readings.reshape(shape),
        texts=texts.reshape(shape),
        judges=tuple(judge.report() for judge in judges),
        settings={
            "subject": model.name,
            "subject_fingerprint": model.fingerprint,
            "atlas": atlas.name,
            "atlas_fingerprint": atlas.fingerprint,
            "mode": mode,
            "sampling": asdict(sampling),
            "seed": seed,
        },
        left_out=dict(left_out or {}),
    )


def query_directions(
    translations: Iterable[Translation] | Mapping[str, Mapping[str, Translation]],
    queries: Mapping[str, Query],
) -> Directions:
    """The scores of each query by each translation (eq. 3).

    Raises:
        InputError: two translations of one method and site, or queries of another atlas.
    """
    if isinstance(translations, Mapping):
        translations = (t for by_method in translations.values() for t in by_method.values())
    found: Directions = {}
    for translation in translations:
        site = translation.meta["subject"]["site"]
        by_site = found.setdefault(translation.method, {})
        if site in by_site:
            raise InputError(f"Two translations by {translation.method} at {site}: give one.")
        by_site[site] = {name: translation.scores(query) for name, query in queries.items()}
    return found


def rate(
    judge: Judge,
    concepts: Sequence[str],
    texts: Sequence[str],
    out: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """A judge's rating of each text for the concept beside it, each pair rated once; -1: none.

    What was rated is kept in the journal `out`; what got no rating is asked for again next time.
    """
    keys = [
        digest(judge.name, judge.fingerprint, concept, text)
        for concept, text in zip(concepts, texts, strict=True)
    ]
    pairs = dict(zip(keys, zip(concepts, texts, strict=True), strict=True))
    with Journal(out) as journal:
        # Sorted, so that a judge gets sequences of one concept together.
        todo = sorted((key for key in pairs if key not in journal), key=lambda key: pairs[key])
        with Bar(f"judging ({judge.name})", len(todo)) as bar:
            for start in range(0, len(todo), _RATED_AT_ONCE):
                part = todo[start : start + _RATED_AT_ONCE]
                ratings = judge.rate([pairs[k][0] for k in part], [pairs[k][1] for k in part])
                journal.add(
                    {"id": key, "judge": judge.name, "concept": pairs[key][0], "rating": rating}
                    for key, rating in zip(part, ratings, strict=True)
                    if rating is not None
                )
                bar.advance(len(part))
        return np.array([journal[k]["rating"] if k in journal else -1 for k in keys], np.int8)


def _with_zero(strengths: Sequence[float]) -> tuple[float, ...]:
    values = sorted({0.0, *map(float, strengths)})
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"Expected finite strengths beside 0, got {list(strengths)}.")
    return tuple(values)


def _shared_sites(found: Directions, queries: Mapping[str, Query]) -> tuple[str, ...]:
    if not found:
        raise InputError("Expected at least one translation, got none.")
    if RANDOM in found:
        raise InputError(f"'{RANDOM}' is the name of the baseline: call this method another.")
    first, *rest = found
    sites = tuple(found[first])
    for method in (first, *rest):
        if set(found[method]) != set(sites):
            raise InputError(
                f"Expected every method at the same sites, '{first}' is at {', '.join(sites)} and "
                f"'{method}' at {', '.join(found[method])}."
            )
        for site in sites:
            missing = set(queries) - set(found[method][site])
            if missing:
                raise InputError(
                    f"Expected a direction of '{method}' at {site} for every query, there is none "
                    f"for {', '.join(sorted(missing))}."
                )
    return sites


def _random(
    found: Directions, sites: Sequence[str], queries: Mapping[str, Query], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    like = found.get("procrustes") or next(iter(found.values()))
    made: dict[str, dict[str, Float[np.ndarray, " ds"]]] = {}
    for i, site in enumerate(sites):
        made[site] = {}
        for j, query in enumerate(queries):
            scores = like[site][query]
            norm = float(np.linalg.norm(scores))
            made[site][query] = random_scores(len(scores), norm, [seed, i, j])
    return made


def _active(query: Query) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(np.asarray(query.vector)))
