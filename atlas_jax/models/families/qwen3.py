"""Qwen 3 (dense): Qwen 2 without the biases, and with a norm over each head of q and k."""

from __future__ import annotations

from dataclasses import replace

from atlas_jax.models.arch import Arch
from atlas_jax.models.config import Config
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES
from atlas_jax.models.families.qwen2 import read_qwen
from atlas_jax.models.names import Names, with_biases

_NAMES: Names = {
    **NAMES,
    "blocks.attn.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.attn.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
}


def _read(get: Config) -> Arch:
    bias = get("attention_bias", False)
    return replace(read_qwen(get, 128), qk_norm="head", qkv_bias=bias, o_bias=bias)


def _names(arch: Arch) -> Names:
    return with_biases(_NAMES, *(f"blocks.attn.{p}" for p in "qkvo")) if arch.o_bias else _NAMES


QWEN3 = Family(_read, _names)
