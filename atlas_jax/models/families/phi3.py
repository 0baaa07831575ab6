"""Phi 3 and 4 with plain RoPE: q, k and v in one tensor, gate and up in another."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, rope_from
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES
from atlas_jax.models.names import Names, Part


def _read(get: Config) -> Arch:
    heads, width, layers = (
        get(key) for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    d_head = get("head_dim", width // heads)
    get.must_be("attention_bias", False)
    get("original_max_position_embeddings", None)  # read by longrope alone, which is refused
    rope = rope_from(
        get("rope_parameters", get("rope_scaling", {})),
        float(get("rope_theta", 10000.0)),
        float(get("partial_rotary_factor", 1.0)),
        kinds=("default",),
    )
    return Arch(
        family="phi3",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=get("num_key_value_heads", heads),
        d_head=d_head,
        d_mlp=get("intermediate_size"),
        activation=get.activation("hidden_act", "silu"),
        norm_eps=get("rms_norm_eps", 1e-5),
        kinds=(AttentionKind(rope, get.optional("sliding_window", None)),),
        layer_kinds=(0,) * layers,
        attn_scale=d_head**-0.5,
        tied=get("tie_word_embeddings", False),
        context_length=get("max_position_embeddings", 4096),
    )


def _names(arch: Arch) -> Names:
    q, kv = arch.n_heads * arch.d_head, arch.n_kv_heads * arch.d_head
    qkv = "model.layers.{}.self_attn.qkv_proj.weight"
    gate_up = "model.layers.{}.mlp.gate_up_proj.weight"
    return {
        **NAMES,
        "blocks.attn.q.kernel": Part(qkv, q + 2 * kv, 0),
        "blocks.attn.k.kernel": Part(qkv, q + 2 * kv, q),
        "blocks.attn.v.kernel": Part(qkv, q + 2 * kv, q + kv),
        "blocks.gate.kernel": Part(gate_up, 2 * arch.d_mlp, 0),
        "blocks.up.kernel": Part(gate_up, 2 * arch.d_mlp, arch.d_mlp),
    }


PHI3 = Family(_read, _names)
