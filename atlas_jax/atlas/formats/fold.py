"""Options of public autoencoders that are the same as other weights, folded into these once.

All in float64. W_enc (d, F), W_dec (F, d), s a number, c one number for each feature:

    scale       x s is what the encoder was trained on:  W_enc s, W_dec / s, b_dec / s
    norms       z |W_dec| is what is compared and kept:  W_enc c, b_enc c, W_dec / c, c = |W_dec|
    gate        f = relu(e^r h + b_mag) where h + b_gate > 0, h = x W_enc, is a JumpReLU:
                W_enc e^r, b_enc = b_mag, theta = b_mag - e^r b_gate
    centre      x - mean(x) is what the encoder was trained on:  W_enc - mean of its rows
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from atlas_jax.atlas.formats.files import Tensors
from atlas_jax.errors import InputError


def _f64(*arrays: np.ndarray) -> list[Float[np.ndarray, "..."]]:
    return [array.astype(np.float64) for array in arrays]


def _f32(**arrays: np.ndarray) -> Tensors:
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def fold_scale(tensors: Tensors, scale: float) -> Tensors:
    """The same features from activations that nobody has scaled.

    Raises:
        InputError: a scale that is not positive.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"Expected a positive norm_scaling_factor, got {scale!r}.")
    w_enc, w_dec, b_dec = _f64(tensors["W_enc"], tensors["W_dec"], tensors["b_dec"])
    return tensors | _f32(W_enc=w_enc * scale, W_dec=w_dec / scale, b_dec=b_dec / scale)


def fold_norms(tensors: Tensors) -> Tensors:
    """Activations scaled by the decoder's norms; the reconstruction stays the same."""
    w_enc, b_enc, w_dec = _f64(tensors["W_enc"], tensors["b_enc"], tensors["W_dec"])
    norms = np.linalg.norm(w_dec, axis=1)
    safe = np.where(norms > 0, norms, 1.0)[:, None]
    return tensors | _f32(W_enc=w_enc * norms[None], b_enc=b_enc * norms, W_dec=w_dec / safe)


def fold_gate(tensors: Tensors) -> Tensors:
    """A gated autoencoder as a JumpReLU (Rajamanoharan et al. 2024, appendix H)."""
    w_enc, r_mag, b_gate, b_mag = _f64(*(tensors[n] for n in ("W_enc", "r_mag", "b_gate", "b_mag")))
    size = np.exp(r_mag)
    kept = {name: tensors[name] for name in ("W_dec", "b_dec")}
    return kept | _f32(W_enc=w_enc * size[None], b_enc=b_mag, threshold=b_mag - size * b_gate)


def fold_centre(tensors: Tensors, subtract: bool) -> Tensors:
    """The same features from a residual stream whose mean over dimensions nobody has removed.

    Where b_dec is subtracted first, its own mean goes into b_enc: it was not removed from b_dec.
    """
    w_enc, b_enc, b_dec = _f64(tensors["W_enc"], tensors["b_enc"], tensors["b_dec"])
    centred = w_enc - w_enc.mean(axis=0, keepdims=True)
    shift = b_dec @ (centred - w_enc) if subtract else np.zeros_like(b_enc)
    return tensors | _f32(W_enc=centred, b_enc=b_enc + shift)
