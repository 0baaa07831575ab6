"""OLMo 2: norms on what attention and the MLP put out, none before them; q and k normed whole."""

from __future__ import annotations

from dataclasses import replace

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import PROJECTIONS, llama_shape
from atlas_jax.models.names import Names, with_biases

_NAMES: Names = {
    **PROJECTIONS,
    "blocks.attn.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.attn.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.post_attn.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.post_mlp.weight": "model.layers.{}.post_feedforward_layernorm.weight",
}


def _read(get: Config) -> Arch:
    bias = get("attention_bias", False)
    return replace(
        llama_shape(get, kinds=(AttentionKind(read_rope(get)),), norm_eps=1e-5),
        pre_norms=False,
        post_norms=True,
        qk_norm="all",
        qkv_bias=bias,
        o_bias=bias,
    )


def _names(arch: Arch) -> Names:
    return with_biases(_NAMES, *(f"blocks.attn.{p}" for p in "qkvo")) if arch.o_bias else _NAMES


OLMO2 = Family(_read, _names)
