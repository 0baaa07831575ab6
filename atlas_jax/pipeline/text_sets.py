"""Concept sets of a run that are read by its two models: from a file, or written by a third."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.atlas import Labels
from atlas_jax.endpoint import Endpoint
from atlas_jax.errors import InputError
from atlas_jax.evaluate.concept_sets import ConceptSets, read_sets, sets_from_texts, write_sets
from atlas_jax.evaluate.set_writer import write_texts
from atlas_jax.pipeline.run_folder import RunFolder


def text_sets(
    run: RunFolder, path: Path, sites: Sequence[str] | None = None
) -> Callable[[str], ConceptSets]:
    """Reads a file's texts, whose features are those of one site, with the run's own models.

    Raises:
        InputError: more than one site, whose features the file cannot all mean, or models that are
            not those of the run.
    """
    chosen = run.choose_sites(sites)
    if len(chosen) != 1:
        raise InputError(
            f"Expected one site for the features of {path}, got {', '.join(chosen)}: choose with "
            "--site."
        )
    texts = read_sets(path)
    model: Any = run.model
    atlas: Any = run.atlas
    for source, store in ((model, run.held_out), (atlas, run.held_out_atlas)):
        if source.fingerprint != store.meta["fingerprint"]:
            raise InputError(
                f"Expected {source.name} as it was when {run.folder} was recorded, its weights "
                "have changed: capture again."
            )
    reading = {key: run.recipe["capture"][key] for key in ("pool", "batch_tokens", "max_tokens")}
    return lambda site: sets_from_texts(model, site, atlas, texts, source=path.name, **reading)


def written_sets(
    folder: Path,
    descriptions: Path,
    url: str,
    model: str,
    size: int,
    features: int | Sequence[int],
    seed: int,
) -> Path:
    """Has a model write sets for described features, and keeps them in a file.

    Raises:
        InputError: unreadable labels, features without one, or an endpoint without an answer.
    """
    labels = Labels.load(descriptions).descriptions
    if isinstance(features, int):
        known = np.array(sorted(labels))
        rng = np.random.default_rng([seed, 3])
        chosen = np.sort(rng.choice(known, min(features, len(known)), replace=False)).tolist()
    else:
        chosen = list(features)
    missing = [feature for feature in chosen if feature not in labels]
    if missing:
        raise InputError(f"Expected features that {descriptions} describes, got {missing[:5]}.")
    endpoint = Endpoint(url, model, cache=folder / "answers", temperature=1.0, max_tokens=4000)
    found = write_texts(endpoint, {feature: labels[feature][0] for feature in chosen}, size)
    return write_sets(folder / "sets.jsonl", found)
