"""Phi 3 and 4 with plain RoPE: q, k and v in one tensor, gate and up in another."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, rope_from
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES, llama_shape
from atlas_jax.models.names import Names, Part


def _read(get: Config) -> Arch:
    get.must_be("attention_bias", False)
    get("original_max_position_embeddings", None)  # read by longrope alone, which is refused
    rope = rope_from(
        get("rope_parameters", get("rope_scaling", {})),
        float(get("rope_theta", 10000.0)),
        float(get("partial_rotary_factor", 1.0)),
        kinds=("default",),
    )
    kind = AttentionKind(rope, get.optional("sliding_window", None))
    return llama_shape(get, kinds=(kind,), norm_eps=1e-5, context_length=4096)


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
