"""Loading an atlas: an autoencoder found by its reference, with its labels and its model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from atlas_jax.atlas.atlas import Atlas
from atlas_jax.atlas.formats import SAE_FORMATS, find_format
from atlas_jax.atlas.labels import Labels
from atlas_jax.atlas.pooled import FEATURES, features_apart
from atlas_jax.atlas.reference import find_sae, hub_model
from atlas_jax.atlas.sae import SAE
from atlas_jax.errors import InputError
from atlas_jax.files import read_json
from atlas_jax.models.language_model import LanguageModel, load_model
from atlas_jax.on_host import on_devices

DEFAULT = "smollm2-135m-12-4k"


def load_atlas(
    reference: str | os.PathLike[str] = DEFAULT,
    labels: str | os.PathLike[str] | Labels | None = None,
    model: str | LanguageModel | None = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    site: str | None = None,
    format: str | None = None,
    *,
    sae_id: str | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Atlas:
    """Loads an atlas.

    Args:
        reference: the name of one that ships (`smollm2-135m-12-4k`); a local folder; a release as
            SAELens names it with the id after a slash
            (`gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical`); or
            `owner/repository/folder` on the hub.
        labels: a file or folder of descriptions; default: `labels.jsonl` beside the autoencoder.
        model: the model it reads, or a reference to it (one of the same shape, such as a fine-tuned
            one); default: what the autoencoder's files name.
        dtype: of the model, `float32` or `bfloat16`.
        mesh: where to place the model's weights, and the autoencoder's beside them.
        site: what it reads; default: what the autoencoder's files name.
        format: a key of `SAE_FORMATS`; default: found from the names of the files.
        sae_id: the id within a release, instead of after the slash.
        config: entries that the autoencoder's files lack, such as `norm_scaling_factor`.
        revision: of a hub repository.

    Raises:
        InputError: an unknown name, a damaged folder, an autoencoder that is not understood, or
            labels of another atlas.
    """
    if format is not None and format not in SAE_FORMATS:
        raise InputError(f"Expected a format among {', '.join(SAE_FORMATS)}, got '{format}'.")
    found = find_sae(reference, sae_id, revision)
    folder = found.folder
    kind = SAE_FORMATS[format or find_format(folder)]
    loaded = kind.load(folder, {**found.extra, **(config or {})})
    site = site or loaded.site
    if not site:
        raise InputError(f"{folder} does not say which site it reads. Pass site='blocks.N....'.")
    wanted = hub_model(loaded.model_name or found.model) if model is None else model
    if not wanted:
        raise InputError(f"{folder} does not say whose activations it reads. Pass model=...")
    if labels is None:
        file = folder / "labels.jsonl"
        labels = Labels.load(file) if file.exists() else Labels({})
    elif not isinstance(labels, Labels):
        labels = Labels.load(labels, loaded.neuronpedia)
    labels.check_origin(loaded.neuronpedia)

    def reader() -> LanguageModel:
        if isinstance(wanted, LanguageModel):
            return wanted
        return load_model(wanted, dtype=dtype, mesh=mesh)

    card = folder / "card.json"
    atlas = Atlas(
        loaded.sae,
        site,
        labels,
        found.name,
        reader,
        read_json(card, "card", "delete it") if card.exists() else None,
        max_norm=loaded.max_norm,
    )
    if mesh is not None:
        if mesh.is_multi_process:
            _ = atlas.identity  # while this process has all of the weights
        atlas.sae = _placed(loaded.sae, mesh)
    return atlas


def _placed(sae: SAE, mesh: Mesh) -> SAE:
    """Beside the model on a mesh, or each batch would carry it there; split by features."""
    where = FEATURES if features_apart(sae, mesh) else dict.fromkeys(FEATURES, P())
    parts = {name: (getattr(sae, name), spec) for name, spec in where.items()}
    placed = {
        name: on_devices(np.asarray(value), NamedSharding(mesh, spec))
        for name, (value, spec) in parts.items()
        if value is not None
    }
    return replace(sae, **placed)
