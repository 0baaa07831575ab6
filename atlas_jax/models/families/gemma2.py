"""Gemma 2: norms on both sides of each part, windows in every other layer, two soft caps."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, mixed_layers, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import PROJECTIONS
from atlas_jax.models.names import Names

NAMES: Names = {
    **PROJECTIONS,
    "blocks.norm_attn.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.post_attn.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.norm_mlp.weight": "model.layers.{}.pre_feedforward_layernorm.weight",
    "blocks.post_mlp.weight": "model.layers.{}.post_feedforward_layernorm.weight",
}


def _read(get: Config) -> Arch:
    width, layers = get("hidden_size"), get("num_hidden_layers")
    heads = get("num_attention_heads")
    get.must_be("hidden_act", "gelu_pytorch_tanh")
    get.must_be("hidden_activation", "gelu_pytorch_tanh")
    get.must_be("attention_bias", False)
    get.must_be("use_bidirectional_attention", False)
    rope = read_rope(get)
    kinds, layer_kinds = mixed_layers(
        get("layer_types", [("sliding_attention", "full_attention")[i % 2] for i in range(layers)]),
        layers,
        AttentionKind(rope, get.optional("sliding_window", 4096)),
        AttentionKind(rope),
    )
    return Arch(
        family="gemma2",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", 4),
        d_head=get("head_dim", 256),
        d_mlp=get("intermediate_size"),
        activation="gelu_tanh",
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=kinds,
        layer_kinds=layer_kinds,
        attn_scale=float(get("query_pre_attn_scalar", 256)) ** -0.5,
        norm_offset=1.0,
        post_norms=True,
        embed_scale=float(width) ** 0.5,
        attn_softcap=get.optional("attn_logit_softcapping", 50.0),
        logit_softcap=get.optional("final_logit_softcapping", 30.0),
        tied=get("tie_word_embeddings", True),
        context_length=get("max_position_embeddings", 8192),
    )


GEMMA2 = Family(_read, lambda _: NAMES)
