"""Qwen 2 and 2.5: Llama's shape with biases on q, k and v, and windows in the upper layers."""

from __future__ import annotations

from dataclasses import replace

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, mixed_layers, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES
from atlas_jax.models.names import with_biases


def read_qwen(get: Config, family: str, d_head: int | None = None) -> Arch:
    """What Qwen 2 and 3 have in common.

    Args:
        get: the config.
        family: its `model_type`.
        d_head: width of a head where the config does not say; default: hidden_size / heads.
    """
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    d_head = int(get("head_dim", d_head or width // heads))
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
    return Arch(
        family=family,
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "silu"),
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=kinds,
        layer_kinds=layer_kinds,
        attn_scale=d_head**-0.5,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 32768),
    )


def _read(get: Config) -> Arch:
    return replace(read_qwen(get, "qwen2"), qkv_bias=True)


_NAMES = with_biases(NAMES, *(f"blocks.attn.{p}" for p in "qkv"))

QWEN2 = Family(_read, lambda _: _NAMES)
