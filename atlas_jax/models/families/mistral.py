"""Mistral: Llama's shape, with one window for all layers."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES


def _read(get: Config) -> Arch:
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    d_head = get("head_dim", width // heads)
    return Arch(
        family="mistral",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", 8),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "silu"),
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=(AttentionKind(read_rope(get), get.optional("sliding_window", 4096)),),
        layer_kinds=(0,) * layers,
        attn_scale=d_head**-0.5,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 131072),
    )


MISTRAL = Family(_read, lambda _: NAMES)
