"""The RoPE that a GGUF header and its factor tensors describe."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from atlas_jax.models.gguf.header import Header, decimal

# Those of every Llama 3.1 to 3.3; llama.cpp's converter knows no other original length.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_parameters(header: Header, width: int, theta: float = 10000.0) -> dict[str, Any]:
    """The `rope_parameters` of a config.

    Args:
        header: of the file.
        width: rotated dimensions of a head.
        theta: the base, where the header names none.

    Raises:
        InputError: a scaling that the decoder does not have (yarn, longrope), or factors that are
            not those of Llama 3.1.
    """
    theta = header("rope.freq_base", theta)
    kind = header("rope.scaling.type", "linear")
    factor = header("rope.scaling.factor", header("rope.scale_linear", 0.0)) or 1.0
    header("rope.scaling.original_context_length", None)
    if "rope_factors_long.weight" in header.tensors:
        raise header.refusal("RoPE scaling 'longrope' (rope_factors_long.weight)")
    if kind not in ("none", "linear"):
        raise header.refusal(f"RoPE scaling '{kind}'")
    scaled = kind == "linear" and factor != 1.0
    factors = _factors(header)
    if factors is not None and (factors != 1.0).any():
        if scaled:
            raise header.refusal("RoPE scaling 'linear' and rope_freqs.weight together")
        return {"rope_theta": theta} | _llama3(header, factors, theta, width)
    if scaled:
        return {"rope_theta": theta, "rope_type": "linear", "factor": factor}
    return {"rope_theta": theta, "rope_type": "default"}


def _factors(header: Header) -> Float[np.ndarray, " half"] | None:
    import gguf

    tensor = header.tensors.get("rope_freqs.weight")
    if tensor is None:
        return None
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def _llama3(
    header: Header, factors: Float[np.ndarray, " half"], theta: float, width: int
) -> dict[str, Any]:
    """Finds the one constant that differs between the models, and checks all factors by it.

    With s = clip((original / wavelength - low) / (high - low), 0, 1), each inverse frequency is
    divided by 1 / ((1 - s) / factor + s).
    """
    low, high, original = _LLAMA3.values()
    wavelengths = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
    s = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    if factors.shape == s.shape and s[-1] < 1:
        factor = decimal(round(float((1 - s[-1]) / (1 / factors[-1] - s[-1])), 3))
        expected = 1 / ((1 - s) / factor + s)
        # The tensor was computed in float32, in which it is rounded.
        if np.allclose(factors, expected, rtol=2e-6, atol=0.0):
            return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    raise header.refusal("frequency factors (rope_freqs.weight) other than those of Llama 3.1")
