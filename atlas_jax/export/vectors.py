"""Edits as steering vectors: a tensor for each site, a script that uses them, a control vector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.export.control_vector import export_control_vector
from atlas_jax.export.snippets import SNIPPETS, snippet
from atlas_jax.export.tensors import FILES, export_arrays
from atlas_jax.files import write_text
from atlas_jax.models import POINTS, Edit, LanguageModel

_FORMAT = "atlas-jax steering vector 1"
_ENDINGS = (*FILES, ".gguf", ".py")


def export_vectors(
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    *,
    about: Mapping[str, Any] | None = None,
    model: LanguageModel | None = None,
    library: str = "transformers",
    approximate: bool = False,
) -> list[Path]:
    """Writes steering vectors for other programs.

    Args:
        edits: what `steer` and `steer_query` give; one for each site.
        path: `.safetensors`, `.npz` or `.pt`: a tensor (d,) named by each site, float32, without
            its strength, which stands in the metadata (`steering`) with the mode; `.py`: that
            safetensors file and a script beside it that steers by it; `.gguf`: a control vector
            (`export_control_vector`), which has no place for a strength and carries it baked in.
        about: what else the metadata should say, such as the query.
        model: the subject, which `.gguf` needs.
        library: of the script, a key of `SNIPPETS`.
        approximate: see `export_control_vector`.

    Returns:
        The files written.

    Raises:
        InputError: no edit, two at one site, another ending or library, or whatever the kind of
            file refuses.
    """
    path = Path(path).expanduser()
    sites = [edit.site for edit in edits]
    if not sites or len(set(sites)) < len(sites):
        raise InputError(f"Expected one edit for each site, got {', '.join(sites) or 'none'}.")
    if path.suffix not in _ENDINGS:
        raise InputError(f"Expected a file ending in {', '.join(_ENDINGS)}, got '{path.name}'.")
    if path.suffix == ".gguf":
        if model is None:
            raise InputError("A control vector needs the model that it steers: pass model=...")
        return [export_control_vector(edits, path, model, approximate=approximate, about=about)]
    ordered = sorted(edits, key=lambda edit: _place(edit.site))
    steering = [{"site": e.site, "strength": e.strength, "mode": e.mode} for e in ordered]
    meta = {**(about or {}), "format": _FORMAT, "steering": steering}
    tensors = {edit.site: np.asarray(edit.vector, np.float32) for edit in edits}
    if path.suffix != ".py":
        return [export_arrays(tensors, path, meta)]
    if library not in SNIPPETS:
        raise InputError(f"Expected a library among {', '.join(SNIPPETS)}, got '{library}'.")
    if any(site.endswith("hook_resid_mid") for site in sites) and library != "transformer_lens":
        raise InputError(
            f"hook_resid_mid is no module's input or output in {library}: ask for transformer_lens."
        )
    text = snippet(library, path.name)
    tensors_file = export_arrays(tensors, path.with_suffix(".safetensors"), meta)
    return [tensors_file, write_text(path, text)]


def _place(site: str) -> tuple[int, int, str]:
    """Sorts as a forward pass reaches sites, which some libraries ask for."""
    _, layer, point = site.split(".", 2)
    return int(layer), POINTS.index(point), site
