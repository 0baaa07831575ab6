"""Loading an atlas by name or from a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from atlas_jax.atlas.atlas import Atlas
from atlas_jax.atlas.formats import SAE_FORMATS
from atlas_jax.atlas.labels import Labels
from atlas_jax.errors import InputError
from atlas_jax.models.language_model import LanguageModel, load_model

RELEASED = Path(__file__).parent / "released"
DEFAULT = "smollm2-135m-12-4k"


def load_atlas(
    reference: str | os.PathLike[str] = DEFAULT,
    labels: str | os.PathLike[str] | Labels | None = None,
    model: str | LanguageModel | None = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    site: str | None = None,
    format: str = "saelens",
) -> Atlas:
    """Loads an atlas.

    Args:
        reference: the name of one that ships (`smollm2-135m-12-4k`), or a local folder.
        labels: a file of descriptions; default: `labels.jsonl` in the folder.
        model: the model it reads, or a reference to it; default: what its cfg.json names.
        dtype: of the model, `float32` or `bfloat16`.
        mesh: where to place the model's weights, and the autoencoder's beside them.
        site: what it reads; default: what its cfg.json names.
        format: of the folder, a key of `SAE_FORMATS`.

    Raises:
        InputError: an unknown name, a damaged folder, or labels of another atlas.
    """
    if format not in SAE_FORMATS:
        raise InputError(f"Expected a format among {', '.join(SAE_FORMATS)}, got '{format}'.")
    name = os.fspath(reference)
    known = released()
    folder = known.get(name, Path(name).expanduser())
    if not folder.is_dir():
        raise InputError(
            f"Expected an atlas that ships ({', '.join(known)}) or a folder, got '{name}'."
        )
    loaded = SAE_FORMATS[format](folder)
    site = site or loaded.site
    if not site:
        raise InputError(f"{folder} does not say which site it reads. Pass site='blocks.N....'.")
    if model is None and not loaded.model_name:
        raise InputError(f"{folder} does not say whose activations it reads. Pass model=...")
    if labels is None:
        file = folder / "labels.jsonl"
        found = Labels.load(file) if file.exists() else Labels({})
    else:
        found = labels if isinstance(labels, Labels) else Labels.load(labels)
    wanted = loaded.model_name if model is None else model

    def reader() -> LanguageModel:
        if isinstance(wanted, LanguageModel):
            return wanted
        return load_model(wanted, dtype=dtype, mesh=mesh)

    card = folder / "card.json"
    # Beside the model on every device of a mesh, or each batch would carry it there again.
    sae = loaded.sae if mesh is None else jax.device_put(loaded.sae, NamedSharding(mesh, P()))
    return Atlas(
        sae,
        site,
        found,
        folder.name,
        reader,
        json.loads(card.read_text()) if card.exists() else None,
        max_norm=loaded.max_norm,
    )


def released() -> dict[str, Path]:
    """The atlases that ship with the package, by name."""
    if not RELEASED.is_dir():
        return {}
    return {p.name: p for p in sorted(RELEASED.iterdir()) if (p / "cfg.json").exists()}
