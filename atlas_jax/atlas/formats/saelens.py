"""The SAELens folder: `cfg.json` beside `sae_weights.safetensors`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atlas_jax.atlas.sae import SAE
from atlas_jax.errors import InputError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "jumprelu", "topk")
# Standard SAEs of old spell the activation function; these mean what each architecture means here.
_ACTIVATIONS = {"standard": {"relu"}, "jumprelu": {"relu", "jumprelu"}, "topk": {"topk"}}


@dataclass(frozen=True)
class LoadedSAE:
    """A sparse autoencoder with where it belongs.

    Attributes:
        site: the site it reads, or "" where its configuration does not say.
        model_name: whose activations, likewise.
        max_norm: norm above which an activation is an attention sink, where known.
        config: the configuration as found.
    """

    sae: SAE
    site: str
    model_name: str
    max_norm: float | None
    config: Mapping[str, Any]


def load_saelens(folder: str | os.PathLike[str]) -> LoadedSAE:
    """Reads a folder that SAELens or this package wrote; whatever is not implemented is refused.

    Float16 and bfloat16 weights become float32.

    Raises:
        InputError: a missing or unreadable file, an architecture, normalisation or kind of SAE that
            is not implemented, or a tensor that is missing, misshaped or not finite.
    """
    folder = Path(folder)
    config = _config(folder)
    architecture = _architecture(config)
    d, n = (_count(config, key) for key in ("d_in", "d_sae"))
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (n,)
    tensors = _tensors(folder / WEIGHTS, shapes)
    k = _top_k(config) if architecture == "topk" else None
    if k is not None and not 0 < k <= n:
        raise InputError(f"Expected k between 1 and d_sae = {n} in {CONFIG}, got {k}.")
    sae = SAE(
        **{name: jnp.asarray(value) for name, value in tensors.items()},
        architecture=architecture,  # type: ignore[arg-type]
        k=k,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", False)),
    )
    meta = config.get("metadata") or {}
    site, model = (str(config.get(k) or meta.get(k) or "") for k in ("hook_name", "model_name"))
    limit = meta.get("max_norm")
    return LoadedSAE(sae, site, model, None if limit is None else float(limit), config)


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
    if sae.architecture not in ARCHITECTURES:
        raise InputError(
            f"A SAELens folder holds {', '.join(ARCHITECTURES)}, not {sae.architecture}: give a "
            "batch-top-k autoencoder a threshold and save it as jumprelu."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": site, "model_name": model_name, "prepend_bos": True},
    }
    if max_norm is not None:
        config["metadata"] |= {"max_norm": max_norm}
    if sae.architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    draft = folder / f".{WEIGHTS}.partial"
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, draft)
    draft.chmod(0o644)  # safetensors makes it readable by its owner alone
    os.replace(draft, folder / WEIGHTS)
    draft = folder / f".{CONFIG}.partial"
    draft.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(draft, folder / CONFIG)


def _config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"Expected a SAELens folder with {CONFIG} and {WEIGHTS}, {folder} has no {name}."
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Expected JSON in {folder / CONFIG}: {error}.") from None
    if not isinstance(config, dict):
        raise InputError(f"Expected a JSON object in {folder / CONFIG}.")
    return config


def _architecture(config: Mapping[str, Any]) -> str:
    found = config.get("architecture", "standard")
    if "transcoder" in str(found) or "d_out" in config or "hook_name_out" in config:
        raise InputError(
            "Expected a sparse autoencoder, got a transcoder, which reads one site and writes "
            "another: an atlas must rebuild the site it reads."
        )
    if found not in ARCHITECTURES:
        raise InputError(
            f"Expected a SAELens architecture among {', '.join(ARCHITECTURES)}, got '{found}'."
        )
    activation = config.get("activation_fn_str") or config.get("activation_fn")
    # Before `architecture: topk` existed, the activation function alone said so.
    architecture = "topk" if activation == "topk" else found
    if activation is not None and activation not in _ACTIVATIONS[architecture]:
        raise InputError(f"Expected the activation of {found}, got activation_fn '{activation}'.")
    harmless = {
        "normalize_activations": (None, "none"),
        "reshape_activations": (None, "none"),
        "rescale_acts_by_decoder_norm": (None, False),
        "finetuning_scaling_factor": (None, False),
        "scaling_factor": (None, 1, 1.0),
    }
    for key, values in harmless.items():
        if config.get(key) not in values:
            raise InputError(
                f"Expected {key} {values[1]!r} in {CONFIG}, got {config[key]!r}, which is not "
                "implemented: fold it into the weights first."
            )
    return architecture


def _top_k(config: Mapping[str, Any]) -> int:
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if not isinstance(k, int):
        raise InputError(f"Expected an integer k in {CONFIG} of a topk autoencoder, got {k!r}.")
    return k


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise InputError(f"Expected a positive integer {key} in {CONFIG}, got {value!r}.")
    return value


def _tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    try:
        # numpy has no bfloat16 of its own; ml_dtypes, which comes with jax, gives it one.
        with safe_open(path, "np") as file:
            present = set(file.keys())
            if "log_threshold" in present - {"threshold"} and "threshold" in shapes:
                present.add("threshold")
            missing = [name for name in shapes if name not in present]
            if missing:
                raise InputError(
                    f"Expected the tensors {', '.join(shapes)} in {path.name}, "
                    f"{', '.join(missing)} missing."
                )
            extra = sorted(present - set(shapes) - {"log_threshold"})
            if extra:
                raise InputError(
                    f"Expected only the tensors {', '.join(shapes)} in {path.name}, got also "
                    f"{', '.join(extra[:4])}: is it another architecture?"
                )
            tensors = {}
            for name in shapes:
                if name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    tensors[name] = np.asarray(file.get_tensor(name)).astype(np.float32)
                else:
                    tensors[name] = np.exp(file.get_tensor("log_threshold").astype(np.float32))
    except SafetensorError as error:
        raise InputError(f"Expected safetensors in {path}: {error}.") from None
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"Expected {name} of shape {shape} in {path.name}, got {tensors[name].shape}."
            )
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{name} in {path.name} holds NaN or infinite values.")
    return tensors
