"""Gemma 3, and the text part of its multimodal checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch, AttentionKind, Rope
from atlas_jax.models.config import Config, mixed_layers, rope_from
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.gemma2 import NAMES as GEMMA2_NAMES
from atlas_jax.models.names import Names

_NAMES: Names = {
    **GEMMA2_NAMES,
    "blocks.attn.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.attn.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
}
# A multimodal config names only what differs from the class of its text part.
_TEXT_DEFAULTS = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
_ROPES = ("sliding_attention", "full_attention")


def _ropes(get: Config) -> tuple[Rope, Rope]:
    """Of the layers with a window, and of those without."""
    for key in ("rope_local_base_freq", "rope_theta", "rope_scaling"):
        get(key, None)
    local = float(get("rope_local_base_freq", 10000.0))
    theta = float(get("rope_theta", 1_000_000.0))
    ropes: Mapping[str, Any] = get("rope_parameters", {})
    if ropes and set(ropes) != set(_ROPES):
        raise InputError(
            f"Expected rope_parameters for {' and '.join(_ROPES)}, got "
            f"{', '.join(sorted(ropes))}. Is this a complete config.json?"
        )
    if ropes:
        return rope_from(ropes[_ROPES[0]], local), rope_from(ropes[_ROPES[1]], theta)
    return Rope(local), rope_from(get("rope_scaling", {}), theta)


def _read_text(get: Config) -> Arch:
    width, layers = get("hidden_size"), get("num_hidden_layers")
    get.must_be("hidden_activation", "gelu_pytorch_tanh")
    get.must_be("hidden_act", "gelu_pytorch_tanh")
    get.must_be("attention_bias", False)
    get.must_be("use_bidirectional_attention", False)
    pattern = get("sliding_window_pattern", get("_sliding_window_pattern", 6))
    default = [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)
    ]
    local, full = _ropes(get)
    kinds, layer_kinds = mixed_layers(
        get("layer_types", default),
        layers,
        AttentionKind(local, get.optional("sliding_window", 4096)),
        AttentionKind(full),
    )
    return Arch(
        family="gemma3_text",
        vocab_size=get("vocab_size"),
        d_model=width,
        n_layers=layers,
        n_heads=get("num_attention_heads"),
        n_kv_heads=get("num_key_value_heads"),
        d_head=get("head_dim"),
        d_mlp=get("intermediate_size"),
        activation="gelu_tanh",
        norm_eps=get("rms_norm_eps", 1e-6),
        kinds=kinds,
        layer_kinds=layer_kinds,
        attn_scale=float(get("query_pre_attn_scalar", 256)) ** -0.5,
        norm_offset=1.0,
        post_norms=True,
        qk_norm="head",
        embed_scale=float(width) ** 0.5,
        attn_softcap=get.optional("attn_logit_softcapping", None),
        logit_softcap=get.optional("final_logit_softcapping", None),
        tied=get("tie_word_embeddings", True),
        context_length=get("max_position_embeddings", 131072),
    )


def _read_multimodal(get: Config) -> Arch:
    """Reads `text_config`; images are never fed, so what describes them changes nothing."""
    for key in ("vision_config", "mm_tokens_per_image", "tie_word_embeddings"):
        get(key, None)
    for kind in ("boi", "eoi", "image"):
        get(f"{kind}_token_index", None)
        get(f"{kind}_token_id", None)
    text = Config(_TEXT_DEFAULTS | dict(get("text_config")))
    if text.family != "gemma3_text":
        raise InputError(f"Expected a text_config of gemma3_text, got '{text.family}'.")
    text("tie_word_embeddings", None)
    arch = _read_text(text)
    text.finish()
    return replace(arch, family="gemma3", tied=get("tie_word_embeddings", True))


GEMMA3_TEXT = Family(_read_text, lambda _: _NAMES)
GEMMA3 = Family(
    _read_multimodal,
    lambda _: _NAMES,
    renames={
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "model.language_model.": "model.",
    },
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\..*|.*rotary_emb\.inv_freq",
)
