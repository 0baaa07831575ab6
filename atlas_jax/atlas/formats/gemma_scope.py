"""Gemma Scope (Lieberum et al. 2024): `params.npz`, one folder for each autoencoder.

A JumpReLU without input normalisation; b_dec is not subtracted first. The files say neither model
nor site: both are in the names of the repository and of the folder, as in

    gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.atlas.formats.files import read_tensors, take, whole
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble, refuse_transcoder
from atlas_jax.errors import InputError

WEIGHTS = "params.npz"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_POINTS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


@whole
def load_gemma_scope(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder of Gemma Scope.

    Args:
        folder: with params.npz; best under the names that the hub gives it.
        extra: `hook_name` and `model_name`, where the folder's path does not say.

    Raises:
        InputError: a damaged file, a transcoder, or features scaled by a factor.
    """
    folder = Path(folder)
    extra = extra or {}
    where = folder.expanduser().absolute().as_posix()
    # Inside a hub cache the repository is one folder, owner and name joined by `--`.
    found = _REPOSITORY.search(where)
    layer = re.search(r"layer_(\d+)", where)
    if found and found[3] == "transcoders":
        raise refuse_transcoder(found[0])
    embedding = "/embedding" in where
    tensors = read_tensors(folder / WEIGHTS)
    # Some files spell the matrices in small letters.
    tensors = {re.sub("^w_", "W_", name): value for name, value in tensors.items()}
    if not np.allclose(tensors.pop("scaling_factor", 1.0), 1.0):
        raise InputError(f"{folder / WEIGHTS} scales its features: fold that into W_dec first.")
    take(tensors, folder / WEIGHTS, NAMES)
    if embedding:  # trained on embeddings times sqrt(d), as Gemma uses them
        root = np.float32(np.sqrt(tensors["W_enc"].shape[0]))
        tensors |= {"W_enc": tensors["W_enc"] / root, "W_dec": tensors["W_dec"] * root}
    site = "hook_embed" if embedding else ""
    if found and layer and not site:
        site = f"blocks.{layer[1]}.{_POINTS[found[3]]}"
    model = f"google/gemma-2-{found[1]}{'-it' if found[2] == 'it' else ''}" if found else ""
    return LoadedSAE(
        assemble(tensors, "jumprelu", folder / WEIGHTS),
        str(extra.get("hook_name") or site),
        str(extra.get("model_name") or model),
        None,
        dict(extra),
        str(extra.get("neuronpedia_id") or ""),
    )
