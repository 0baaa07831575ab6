"""Llama Scope (He et al. 2024): `hyperparams.json` beside `checkpoints/final.safetensors`.

A JumpReLU with one threshold theta, trained on activations times s = sqrt(d) / (mean norm), which
hyperparams.json holds. As SAELens reads it, which is how these autoencoders are mostly used:

    f = relu(z) * (z > theta s),   z = x (s W_enc) + b_enc,   x_hat = (f W_dec + b_dec) / s
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.atlas.formats.files import read_config, read_tensors, take, whole
from atlas_jax.atlas.formats.fold import fold_scale
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble, check_size, refuse_transcoder
from atlas_jax.errors import InputError

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
MODEL = "meta-llama/Llama-3.1-8B"
_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


@whole
def load_llama_scope(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder of Llama Scope.

    Args:
        folder: with hyperparams.json and checkpoints/final.safetensors.
        extra: entries that hyperparams.json lacks.

    Raises:
        InputError: a damaged file, a transcoder, or another activation or normalisation.
    """
    folder = Path(folder)
    config = {**read_config(folder / CONFIG), **(extra or {})}
    read, written = (str(config.get(f"hook_point_{end}") or "") for end in ("in", "out"))
    if written and written != read:
        raise refuse_transcoder(written)
    for key, value in {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}.items():
        if config.get(key, value) != value:
            raise InputError(f"Expected {key} '{value}' in {folder / CONFIG}, got {config[key]!r}.")
    try:
        theta = float(config["jump_relu_threshold"])
        norm = float(config["dataset_average_activation_norm"]["in"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"Expected jump_relu_threshold and dataset_average_activation_norm in "
            f"{folder / CONFIG}, one is missing."
        ) from None
    stored = read_tensors(folder / WEIGHTS)
    take(stored, folder / WEIGHTS, _TENSORS)
    tensors = {
        "W_enc": stored["encoder.weight"].T,
        "b_enc": stored["encoder.bias"],
        "W_dec": stored["decoder.weight"].T,
        "b_dec": stored["decoder.bias"],
    }
    scale = tensors["W_enc"].shape[0] ** 0.5 / norm
    tensors = fold_scale(tensors, scale)
    tensors["threshold"] = np.full(len(tensors["b_enc"]), theta * scale, np.float32)
    sae = assemble(
        tensors,
        "jumprelu",
        folder / WEIGHTS,
        subtract=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
    )
    check_size(config, "d_model", sae.width, folder / CONFIG)
    check_size(config, "d_sae", sae.n_features, folder / CONFIG)
    return LoadedSAE(
        sae,
        str(config.get("hook_name") or read),
        str(config.get("model_name") or MODEL),
        None,
        config,
        str(config.get("neuronpedia_id") or ""),
    )
