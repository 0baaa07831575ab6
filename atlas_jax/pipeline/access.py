"""What an experiment must be able to read, and whether it can, asked before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atlas_jax.errors import InputError
from atlas_jax.pipeline.recipe import Recipe

HERE, OPEN, MISSING = "here", "can be downloaded", "missing"
_READS = {"gemma-scope-2b-pt": "google/gemma-2-2b", "gemma-scope-9b-pt": "google/gemma-2-9b"}
"""Models whose activations a release of autoencoders reads, where the name says so."""


@dataclass(frozen=True)
class Access:
    """One thing that an experiment reads.

    Attributes:
        what: its role.
        name: as the recipe names it.
        state: `here`, `can be downloaded` or `missing`.
        reason: why it is missing, and what to do; empty otherwise.
    """

    what: str
    name: str
    state: str
    reason: str = ""


def check_access(recipe: Recipe) -> list[Access]:
    """Each model, autoencoder, corpus and file of a recipe, and whether it can be had."""
    return list(_checks(recipe))


def require_access(recipe: Recipe) -> None:
    """Refuses a recipe that would fail later for want of something.

    Raises:
        InputError: naming everything that is missing.
    """
    missing = [access for access in check_access(recipe) if access.state == MISSING]
    if missing:
        lines = "; ".join(f"{a.what} {a.name}: {a.reason}" for a in missing)
        raise InputError(f"Expected to read everything that {recipe.name} needs. Missing: {lines}")


def _checks(recipe: Recipe) -> Iterator[Access]:
    for model in (recipe.subject.model, *recipe.subject.also):
        yield look("subject", model, "model")
    reference = recipe.atlas.reference
    yield look("atlas", reference, "model")
    for release, model in _READS.items():
        if release in reference and not Path(reference).expanduser().exists():
            yield look("the atlas's model", model, "model")
    from atlas_jax.corpus.sources import kind_of

    source = recipe.corpus.source
    if kind_of(source) == "packages":
        yield Access("corpus", source, OPEN)
    elif kind_of(source) == "local":
        yield Access("corpus", source, HERE)
    else:
        yield look("corpus", source, "dataset")
    sets = recipe.retrieval.sets
    if sets:
        there = Path(sets).expanduser().is_file()
        yield Access("concept sets", sets, HERE if there else MISSING, "" if there else "no file")


def look(what: str, name: str, kind: str) -> Access:
    """Whether one thing can be had: a path, an asset, an atlas or something of the hub."""
    from atlas_jax.assets import ASSETS, cache_folder
    from atlas_jax.assets.cache import Ledger
    from atlas_jax.atlas.reference import released, releases

    if Path(name).expanduser().exists():
        return Access(what, name, HERE)
    if name in ASSETS:
        asset = ASSETS[name]
        fetched = Ledger(cache_folder() / asset.directory, asset).complete()
        return Access(what, name, HERE if fetched else OPEN)
    if what == "atlas" and name in released():
        return Access(what, name, HERE)
    repository = "/".join(name.partition(":")[0].partition("@")[0].split("/")[:2])
    if what == "atlas" and name.split("/")[0] in releases():
        repository = releases()[name.split("/")[0]]["repo"]
    if _in_cache(repository, kind):
        return Access(what, name, HERE)
    reason = _refusal(repository, kind)
    return Access(what, name, MISSING if reason else OPEN, reason)


def _in_cache(repository: str, kind: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/*"))


def _refusal(repository: str, kind: str) -> str:
    """Why the hub will not give a repository; empty where it will."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "not in the cache, and HF_HUB_OFFLINE is set."
    try:
        HfApi().auth_check(repository, repo_type=kind)
    except GatedRepoError:
        return (
            f"gated: accept its terms at https://huggingface.co/{repository}, then `hf auth login`."
        )
    except RepositoryNotFoundError:
        return "no such repository on the hub, or a private one (then `hf auth login`)."
    except HFValidationError:
        return "neither a path, an asset nor a name of the hub."
    except Exception as error:  # what a client of the network may raise is a long list
        return f"the hub cannot be reached ({type(error).__name__}): connect, or name a folder."
    return ""
