"""Mistral: Llama's shape, with one window for all layers."""

from __future__ import annotations

from atlas_jax.models.arch import Arch, AttentionKind
from atlas_jax.models.config import Config, read_rope
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.llama import NAMES, llama_shape


def _read(get: Config) -> Arch:
    kind = AttentionKind(read_rope(get), get.optional("sliding_window", 4096))
    return llama_shape(get, kinds=(kind,), kv_heads=8, context_length=131072)


MISTRAL = Family(_read, lambda _: NAMES)
