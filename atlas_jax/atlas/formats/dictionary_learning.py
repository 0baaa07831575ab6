"""dictionary_learning (Marks, Karvonen and Mueller): `ae.pt` beside `config.json`.

The class that config.json names decides; W_enc is encoder.weight' and W_dec is decoder.weight':

    AutoEncoder              relu((x - bias) W_enc + b_enc)
    AutoEncoderNew           relu(x W_enc + b_enc)
    GatedAutoEncoder         gated, of x - decoder_bias
    JumpReluAutoEncoder      JumpReLU of x; of x - b_dec where config.json says apply_b_dec_to_input
    AutoEncoderTopK          the k largest of relu((x - b_dec) W_enc + b_enc)
    BatchTopKSAE, MatryoshkaBatchTopKSAE      JumpReLU of x - b_dec, one threshold for all features

Weights are taken as stored: decoder rows are not scaled to length one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.atlas.formats.files import Tensors, read_config, read_tensors, take, whole
from atlas_jax.atlas.formats.fold import fold_gate
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble
from atlas_jax.atlas.sae import Architecture
from atlas_jax.errors import InputError

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATED = {
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
    "decoder_bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
    "r_mag": "r_mag",
}
# Class: what it is here, the names of its tensors, and whether b_dec is subtracted first.
_CLASSES: dict[str, tuple[Architecture, dict[str, str], bool]] = {
    "AutoEncoder": ("standard", {**_LINEAR, "bias": "b_dec"}, True),
    "AutoEncoderNew": ("standard", {**_LINEAR, "decoder.bias": "b_dec"}, False),
    "GatedAutoEncoder": ("jumprelu", _GATED, True),
    "JumpReluAutoEncoder": ("jumprelu", {**_PLAIN, "threshold": "threshold"}, False),
    "AutoEncoderTopK": ("topk", {**_LINEAR, "b_dec": "b_dec"}, True),
    "BatchTopKSAE": ("jumprelu", {**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", {**_PLAIN, "threshold": "threshold"}, True),
}
_HARMLESS = ("k", "threshold", "group_sizes")
_POINTS = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "attention_out": "hook_attn_out",
}


@whole
def load_dictionary_learning(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder of dictionary_learning; torch must be installed.

    Args:
        folder: with ae.pt and config.json.
        extra: entries of config.json's trainer, such as `apply_b_dec_to_input`, and `hook_name`
            and `model_name` where it does not say.

    Raises:
        InputError: a damaged file, or a class that is not understood.
    """
    folder = Path(folder)
    trainer = read_config(folder / CONFIG).get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"Expected 'trainer' in {folder / CONFIG}, it is missing.")
    config = {**trainer, **(extra or {})}
    name = config.get("dict_class")
    if name not in _CLASSES:
        raise InputError(
            f"Expected a dict_class among {', '.join(_CLASSES)} in {folder / CONFIG}, got {name!r}."
        )
    architecture, names, subtract = _CLASSES[name]
    stored = read_tensors(folder / WEIGHTS)
    k = int(stored["k"]) if "k" in stored else config.get("k")
    take(stored, folder / WEIGHTS, tuple(names), _HARMLESS)
    tensors = {ours: stored[theirs] for theirs, ours in names.items()}
    if "encoder.weight" in names:
        tensors |= {key: tensors[key].T for key in ("W_enc", "W_dec")}
    if name == "GatedAutoEncoder":
        tensors = fold_gate(tensors)
    if architecture == "jumprelu":
        tensors["threshold"] = _threshold(tensors, folder / WEIGHTS)
    if name == "JumpReluAutoEncoder":
        subtract = bool(config.get("apply_b_dec_to_input", False))
    return LoadedSAE(
        assemble(tensors, architecture, folder / WEIGHTS, k=k, subtract=subtract),
        str(config.get("hook_name") or _site(config, folder)),
        str(config.get("model_name") or config.get("lm_name") or ""),
        None,
        config,
        str(config.get("neuronpedia_id") or ""),
    )


def _threshold(tensors: Tensors, path: Path) -> np.ndarray:
    theta = tensors["threshold"]
    if theta.size > 1:
        return theta
    if float(theta.reshape(())) < 0:
        raise InputError(
            f"The threshold in {path} was never measured (it is negative): train it for longer."
        )
    return np.full(tensors["W_dec"].shape[0], theta.reshape(()), np.float32)


def _site(config: Mapping[str, Any], folder: Path) -> str:
    """From the submodule's name, such as `resid_post_layer_12`, or else from the folder's."""
    for name in (str(config.get("submodule_name") or ""), *folder.absolute().parts[::-1]):
        found = re.fullmatch(r"(resid_post|mlp_out|attn_out|attention_out)(?:_layer_(\d+))?", name)
        layer = (found[2] or config.get("layer")) if found else None
        if found and layer is not None:
            return f"blocks.{layer}.{_POINTS[found[1]]}"
    return ""
