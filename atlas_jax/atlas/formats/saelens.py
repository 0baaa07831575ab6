"""The SAELens folder: `cfg.json` beside `sae_weights.safetensors`, as versions 1 to 6 write it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.atlas.formats.files import Tensors, read_config, read_tensors, take, whole
from atlas_jax.atlas.formats.fold import fold_centre, fold_gate, fold_norms, fold_scale
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble, check_size, refuse_transcoder
from atlas_jax.atlas.sae import SAE, Architecture, Normalisation
from atlas_jax.errors import InputError
from atlas_jax.files import SEAL, sealed, unsealed, write_json, write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT = "6.0.0"
"""The version of SAELens from which on the model's facts lie in `metadata`."""
_PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
_TENSORS = {
    "standard": _PLAIN,
    "jumprelu": (*_PLAIN, "threshold"),
    "topk": _PLAIN,
    "batchtopk": (*_PLAIN, "topk_threshold"),
    "matryoshka_batchtopk": (*_PLAIN, "topk_threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "r_mag", "b_gate", "b_mag"),
}
"""What each architecture holds. The two batch-top-k ones are training checkpoints: what is saved
for use is a jumprelu already."""
_FOLDED: dict[str, Architecture] = {
    "standard": "standard",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "gated": "jumprelu",
}
_SAVED = ("standard", "jumprelu", "topk")
_NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
# Which of TransformerLens' ways to change a model leave every site as it is.
_HARMLESS = {"fold_ln", "center_unembed", "dtype", "torch_dtype", "n_ctx", "trust_remote_code"}


@whole
def load_saelens(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder that SAELens or this package wrote; whatever is not understood is refused.

    Float16 and bfloat16 weights become float32. What equals other weights is folded into them
    (`fold`): a gated autoencoder comes out as a jumprelu.

    Args:
        folder: with cfg.json and sae_weights.safetensors.
        extra: entries that cfg.json lacks or has wrong, such as `norm_scaling_factor`.

    Raises:
        InputError: a missing or unreadable file, an architecture, normalisation or kind of SAE that
            is not understood, or a tensor that is missing, misshaped or not finite.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"Expected a SAELens folder with {CONFIG} and {WEIGHTS}, {folder} has no {name}."
            )
    config = _unsealed(read_config(folder / CONFIG), folder / CONFIG)
    # Version 6 nests what concerns the model; earlier ones, and `extra`, do not.
    flat = {**(config.get("metadata") or {}), **config, **(extra or {})}
    site = str(flat.get("hook_name") or flat.get("hook_point") or "")
    architecture = _architecture(flat)
    normalisation = _normalisation(flat, site)
    subtract = bool(flat.get("apply_b_dec_to_input", True))
    tensors = _tensors(folder / WEIGHTS, architecture, flat)
    if _centred(flat, site):
        tensors = fold_centre(tensors, subtract)
    sae = assemble(
        tensors,
        _FOLDED[architecture],
        folder / WEIGHTS,
        k=_top_k(flat) if architecture == "topk" else None,
        subtract=subtract,
        normalize=normalisation,
    )
    check_size(flat, "d_in", sae.width, folder / CONFIG)
    check_size(flat, "d_sae", sae.n_features, folder / CONFIG)
    limit = flat.get("max_norm")
    if limit is not None and not float(limit) > 0:
        raise InputError(f"Expected max_norm above 0 in {folder / CONFIG}, got {limit!r}.")
    return LoadedSAE(
        sae,
        site,
        str(flat.get("model_name") or ""),
        None if limit is None else float(limit),
        config,
        str(flat.get("neuronpedia_id") or ""),
    )


def _unsealed(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A configuration without the checksum that `save_saelens` puts where SAELens keeps notes."""
    # Wherever it is found: what is damaged may be the name of the metadata.
    name = next((k for k, v in config.items() if isinstance(v, dict) and SEAL in v), None)
    if name is None:
        return config
    plain = {key: value for key, value in config[name].items() if key != SEAL}
    try:
        return unsealed({**config, name: plain, SEAL: config[name][SEAL]})
    except ValueError as error:
        raise InputError(
            f"{path} was changed or damaged ({error}): save the autoencoder again; or, if you "
            f"changed it, remove {SEAL} from its metadata."
        ) from None


def _architecture(config: Mapping[str, Any]) -> str:
    found = config.get("architecture") or "standard"
    if "transcoder" in str(found) or config.get("d_out") or config.get("hook_name_out"):
        raise refuse_transcoder(str(config.get("hook_name_out") or found))
    if found not in _TENSORS:
        raise InputError(
            f"Expected a SAELens architecture among {', '.join(_TENSORS)}, got '{found}'."
        )
    activation = config.get("activation_fn_str") or config.get("activation_fn")
    # Before `architecture: topk` existed, the activation function alone said so.
    architecture = "topk" if found == "standard" and activation == "topk" else found
    fitting = {"relu", "topk"} if architecture == "topk" else {"relu", architecture}
    if activation is not None and activation not in fitting:
        raise InputError(f"Expected the activation of {found}, got activation_fn '{activation}'.")
    if (config.get("activation_fn_kwargs") or {}).get("signed"):
        raise InputError("Expected activations that are positive, got a signed topk autoencoder.")
    if config.get("hook_head_index") is not None:
        raise InputError(
            "Expected an autoencoder of a whole site, got one of a single attention head "
            f"(hook_head_index {config['hook_head_index']})."
        )
    return architecture


def _normalisation(config: Mapping[str, Any], site: str) -> Normalisation:
    found = config.get("normalize_activations")
    found = {None: "none", False: "none", True: "expected_average_only_in"}.get(found, found)
    if found == "expected_average_only_in":
        if config.get("norm_scaling_factor") is None:
            raise InputError(
                "This autoencoder was trained on scaled activations (expected_average_only_in) and "
                "its files do not hold the scale: pass config={'norm_scaling_factor': ...}."
            )
        found = "none"
    if found not in _NORMALISATIONS:
        raise InputError(
            f"Expected normalize_activations among {', '.join(_NORMALISATIONS)} and "
            f"expected_average_only_in, got {found!r}, which is not implemented: fold it into the "
            "weights first."
        )
    shape = config.get("reshape_activations") or "none"
    # Heads side by side are what that site gives here, so nothing is left to reshape.
    if shape != "none" and not (shape == "hook_z" and site.endswith("hook_z")):
        raise InputError(
            f"Expected reshape_activations 'none', or 'hook_z' at a hook_z site, got {shape!r} at "
            f"'{site}'."
        )
    return found


def _top_k(config: Mapping[str, Any]) -> Any:
    return config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))


def _tensors(path: Path, architecture: str, config: Mapping[str, Any]) -> Tensors:
    tensors = read_tensors(path)
    if "log_threshold" in tensors:
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if not np.allclose(tensors.pop(name, 1.0), 1.0):
            raise InputError(f"{path} scales its features ({name}): fold that into W_dec first.")
    take(tensors, path, _TENSORS[architecture])
    if architecture == "gated":
        tensors = fold_gate(tensors)
    trained = architecture.endswith("batchtopk")
    if config.get("normalize_activations") in (True, "expected_average_only_in"):
        tensors = fold_scale(tensors, float(config["norm_scaling_factor"]))
    if architecture in ("topk", "batchtopk", "matryoshka_batchtopk") and config.get(
        "rescale_acts_by_decoder_norm", trained
    ):
        tensors = fold_norms(tensors)
    if trained:
        theta = float(tensors.pop("topk_threshold").reshape(()))
        tensors["threshold"] = np.full_like(tensors["b_enc"], theta)
    return tensors


def _centred(config: Mapping[str, Any], site: str) -> bool:
    """Whether the model's activations had their mean over dimensions removed."""
    changes = config.get("model_from_pretrained_kwargs") or {}
    changed = {key for key, value in changes.items() if value} - _HARMLESS
    if changed - {"center_writing_weights"}:
        raise InputError(
            f"It was trained on a changed model ({', '.join(sorted(changed))}), whose "
            "activations are others than those read here."
        )
    return bool(changed) and "hook_post" not in site and not site.endswith("hook_z")


def save_saelens(
    sae: SAE,
    folder: str | os.PathLike[str],
    *,
    site: str,
    model_name: str,
    max_norm: float | None = None,
    half: bool = False,
) -> None:
    """Writes a folder that SAELens reads too; each file takes its name only when whole.

    Args:
        sae: what to write.
        folder: where to.
        site: the site it reads.
        model_name: whose activations.
        max_norm: norm above which an activation is an attention sink, not to be read.
        half: W_enc and W_dec in float16; biases and thresholds stay float32.

    Raises:
        InputError: an architecture that the format has no name for, or weights beyond float16.
    """
    if sae.architecture not in _SAVED:
        raise InputError(
            f"A SAELens folder holds {', '.join(_SAVED)}, not {sae.architecture}: give a "
            "batch-top-k autoencoder a threshold and save it as jumprelu."
        )
    folder = Path(folder)
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    names += ["threshold"] if sae.threshold is not None else []
    tensors: dict[str, np.ndarray] = {
        name: np.asarray(getattr(sae, name), np.float32) for name in names
    }
    for name in ("W_enc", "W_dec") if half else ():
        if np.abs(tensors[name]).max() > np.finfo(np.float16).max:
            raise InputError(f"{name} has values beyond float16: save it in float32.")
        tensors[name] = tensors[name].astype(np.float16)
    config = {
        "architecture": sae.architecture,
        "d_in": sae.width,
        "d_sae": sae.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": sae.normalize,
        "reshape_activations": "none",
        "metadata": {
            "hook_name": site,
            "model_name": model_name,
            "prepend_bos": True,
            "sae_lens_version": LAYOUT,
        },
    }
    if max_norm is not None:
        config["metadata"] |= {"max_norm": max_norm}
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    write_tensors(folder / WEIGHTS, tensors, {})
    seal = {SEAL: sealed(config)[SEAL]}
    write_json(folder / CONFIG, {**config, "metadata": {**config["metadata"], **seal}})
