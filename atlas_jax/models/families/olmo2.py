"""OLMo 2: norms on what attention and the MLP put out, none before them; q and k normed whole."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import PROJECTIONS
from atlas_jax.models.names import Names, with_biases

_NAMES: Names = {
    **PROJECTIONS,
    "blocks.attn.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.attn.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.post_attn.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.post_mlp.weight": "model.layers.{}.post_feedforward_layernorm.weight",
}


def _read(get: Config) -> Arch:
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    d_head = get("head_dim", width // heads)
    bias = get("attention_bias", False)
    return Arch(
        family="olmo2",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "silu"),
        norm_eps=get("rms_norm_eps", 1e-5),
        kinds=(AttentionKind(read_rope(get)),),
        layer_kinds=(0,) * layers,
        attn_scale=d_head**-0.5,
        pre_norms=False,
        post_norms=True,
        qk_norm="all",
        qkv_bias=bias,
        o_bias=bias,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 2048),
    )


def _names(arch: Arch) -> Names:
    return with_biases(_NAMES, *(f"blocks.attn.{p}" for p in "qkvo")) if arch.o_bias else _NAMES


OLMO2 = Family(_read, _names)
