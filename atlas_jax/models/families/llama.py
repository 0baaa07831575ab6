"""Llama 1 to 3.3, and what shares their shape (SmolLM, Yi, TinyLlama)."""

from __future__ import annotations

from dataclasses import replace

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.names import Names, with_biases

PROJECTIONS: Names = {
    "embed": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.kernel": "lm_head.weight",
    "blocks.attn.q.kernel": "model.layers.{}.self_attn.q_proj.weight",
    "blocks.attn.k.kernel": "model.layers.{}.self_attn.k_proj.weight",
    "blocks.attn.v.kernel": "model.layers.{}.self_attn.v_proj.weight",
    "blocks.attn.o.kernel": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.gate.kernel": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.up.kernel": "model.layers.{}.mlp.up_proj.weight",
    "blocks.down.kernel": "model.layers.{}.mlp.down_proj.weight",
}
"""What all families with separate projections have."""

NAMES: Names = {
    **PROJECTIONS,
    "blocks.norm_attn.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.norm_mlp.weight": "model.layers.{}.post_attention_layernorm.weight",
}


def llama_shape(
    get: Config,
    *,
    kinds: tuple[AttentionKind, ...],
    layer_kinds: tuple[int, ...] | None = None,
    d_head: int | None = None,
    kv_heads: int | None = None,
    norm_eps: float = 1e-6,
    context_length: int = 2048,
) -> Arch:
    """What every family with Llama's shape reads from its config.

    Args:
        get: the config.
        kinds, layer_kinds: of its layers; default: all are of the first kind.
        d_head: width of a head where the config does not say; default: hidden_size / heads.
        kv_heads: their number where the config does not say; default: as many as heads.
        norm_eps, context_length: likewise.
    """
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    d_head = int(get("head_dim", d_head or width // heads))
    return Arch(
        family=get.family,
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", kv_heads or heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "silu"),
        norm_eps=get("rms_norm_eps", norm_eps),
        kinds=kinds,
        layer_kinds=layer_kinds or (0,) * layers,
        attn_scale=d_head**-0.5,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", context_length),
    )


def _read(get: Config) -> Arch:
    bias = get("attention_bias", False)
    return replace(
        llama_shape(get, kinds=(AttentionKind(read_rope(get)),)),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=get("mlp_bias", False),
    )


def _names(arch: Arch) -> Names:
    names = NAMES
    if arch.qkv_bias:
        names = with_biases(names, *(f"blocks.attn.{p}" for p in "qkvo"))
    return with_biases(names, "blocks.gate", "blocks.up", "blocks.down") if arch.mlp_bias else names


LLAMA = Family(_read, _names)
