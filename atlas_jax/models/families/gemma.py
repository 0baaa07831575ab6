"""Gemma 1: scaled embeddings, norm weights stored minus one, a gated MLP with GELU."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES


def _read(get: Config) -> Arch:
    width, layers, d_head = get("hidden_size"), get("num_hidden_layers"), get("head_dim", 256)
    heads = get("num_attention_heads")
    # The first files say "gelu" and mean its approximation by tanh.
    get.must_be("hidden_act", "gelu", "gelu_pytorch_tanh")
    get.must_be("hidden_activation", "gelu_pytorch_tanh")
    get.must_be("attention_bias", False)
    get.must_be("use_bidirectional_attention", False)
    return Arch(
        family="gemma",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation="gelu_tanh",
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=(AttentionKind(read_rope(get)),),
        layer_kinds=(0,) * layers,
        attn_scale=d_head**-0.5,
        norm_offset=1.0,
        embed_scale=float(width) ** 0.5,
        tied=get("tie_word_embeddings", True),
        context_length=get("max_position_embeddings", 8192),
    )


GEMMA = Family(_read, lambda _: NAMES)
