"""An autoencoder with where it belongs: what every format gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from atlas_jax.atlas.formats.files import Tensors
from atlas_jax.atlas.sae import SAE, Architecture, Normalisation
from atlas_jax.errors import InputError


@dataclass(frozen=True)
class LoadedSAE:
    """A sparse autoencoder with where it belongs.

    Attributes:
        site: the site it reads, or "" where its files do not say.
        model_name: whose activations, likewise.
        max_norm: norm above which an activation is an attention sink, where known.
        config: the configuration as found.
        neuronpedia: its name there, `model/source`, where known.
    """

    sae: SAE
    site: str
    model_name: str
    max_norm: float | None
    config: Mapping[str, Any]
    neuronpedia: str = ""


def assemble(
    tensors: Tensors,
    architecture: Architecture,
    source: Path,
    k: Any = None,
    subtract: bool = False,
    normalize: Normalisation = "none",
) -> SAE:
    """An autoencoder from checked tensors.

    Args:
        tensors: W_enc (d, F), b_enc (F), W_dec (F, d), b_dec (d) and, for jumprelu, threshold (F).
        architecture: which of them.
        source: their file, for messages.
        k: of topk.
        subtract: whether b_dec is subtracted first.
        normalize: how each activation is scaled by itself.

    Raises:
        InputError: a tensor that is misshaped or not finite, or a k out of range.
    """
    if tensors["W_dec"].ndim != 2:
        raise InputError(f"Expected W_dec with 2 axes in {source}, got {tensors['W_dec'].ndim}.")
    n, d = tensors["W_dec"].shape
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (n,)
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"Expected {name} of shape {shape} in {source} (W_dec is {(n, d)}), got "
                f"{tensors[name].shape}."
            )
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{name} in {source} holds NaN or infinite values.")
    if architecture == "topk" and not (type(k) is int and 0 < k <= n):
        raise InputError(
            f"Expected k as a whole number from 1 to {n}, the features of {source}, got {k!r}."
        )
    return SAE(
        **{name: jnp.asarray(tensors[name]) for name in shapes},
        architecture=architecture,
        k=k if architecture == "topk" else None,
        apply_b_dec_to_input=subtract,
        normalize=normalize,
    )


def refuse_transcoder(found: str) -> InputError:
    """The error for what reads one site and writes another."""
    return InputError(
        f"Expected a sparse autoencoder, got a transcoder ({found}), which reads one site and "
        "writes another: an atlas must rebuild the site it reads."
    )


def check_size(config: Mapping[str, Any], key: str, found: int, source: Path) -> None:
    """Refuses a configuration that promises other sizes than the tensors have.

    Raises:
        InputError: naming both.
    """
    said = config.get(key)
    if said is not None and said != found:
        raise InputError(f"{source} says {key} {said!r}, its tensors have {found}.")
