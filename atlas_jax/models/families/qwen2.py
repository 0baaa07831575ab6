"""Qwen 2 and 2.5: Llama's shape with biases on q, k and v, and windows in the upper layers."""

from __future__ import annotations

from dataclasses import replace

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, mixed_layers, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES, llama_shape
from atlas_jax.models.names import with_biases


def read_qwen(get: Config, d_head: int | None = None) -> Arch:
    """What Qwen 2 and 3 have in common.

    Args:
        get: the config.
        d_head: width of a head where the config does not say; default: hidden_size / heads.
    """
    layers = get("num_hidden_layers")
    window = get.optional("sliding_window", 4096) if get("use_sliding_window", False) else None
    get("sliding_window", None)
    get.must_be("use_mrope", False)
    first = get("max_window_layers", 28)
    default = [
        "sliding_attention" if window is not None and i >= first else "full_attention"
        for i in range(layers)
    ]
    rope = read_rope(get)
    kinds, layer_kinds = mixed_layers(
        get("layer_types", default), layers, AttentionKind(rope, window), AttentionKind(rope)
    )
    return llama_shape(
        get, kinds=kinds, layer_kinds=layer_kinds, d_head=d_head, context_length=32768
    )


def _read(get: Config) -> Arch:
    return replace(read_qwen(get), qkv_bias=True)


_NAMES = with_biases(NAMES, *(f"blocks.attn.{p}" for p in "qkv"))

QWEN2 = Family(_read, lambda _: _NAMES)
