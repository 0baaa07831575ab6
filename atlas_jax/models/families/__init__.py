"""The families of models that the decoder can be: for each a config reader and a name table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.config import Config
from atlas_jax.models.families.family import Family
from atlas_jax.models.families.gemma import GEMMA
from atlas_jax.models.families.gemma2 import GEMMA2
from atlas_jax.models.families.gemma3 import GEMMA3, GEMMA3_TEXT
from atlas_jax.models.families.gpt2 import GPT2
from atlas_jax.models.families.gpt_neox import GPT_NEOX
from atlas_jax.models.families.llama import LLAMA
from atlas_jax.models.families.mistral import MISTRAL
from atlas_jax.models.families.olmo2 import OLMO2
from atlas_jax.models.families.phi3 import PHI3
from atlas_jax.models.families.qwen2 import QWEN2
from atlas_jax.models.families.qwen3 import QWEN3
from atlas_jax.outside import check_fields, refusing

_LARGEST = 1 << 24
_SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_mlp")

__all__ = ["FAMILIES", "Family", "read_arch"]

FAMILIES: dict[str, Family] = {
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA3_TEXT,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "olmo2": OLMO2,
    "phi3": PHI3,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}
"""By the `model_type` of the config."""


def read_arch(config: Mapping[str, Any]) -> Arch:
    """Reads an `Arch` from the dictionary of a `config.json`.

    Raises:
        InputError: an unknown `model_type`, RoPE type, or any attribute that is neither handled
            nor known to be harmless. Silence would mean wrong numbers.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"Expected a model of family {', '.join(sorted(FAMILIES))}, got model_type={family!r}."
        )
    get = Config(config)
    with refusing(f"the config of a {family} model", "Is this a complete config.json?"):
        arch = FAMILIES[family].read(get)
        get.finish()
        _check(arch)
    return arch


def _check(arch: Arch) -> None:
    """Refuses sizes that no decoder can have; what a config says may be anything."""
    check_fields(arch, f"a {arch.family} model")
    for kind in arch.kinds:
        check_fields(kind, f"a layer of a {arch.family} model")
        if kind.rope:
            check_fields(kind.rope, f"the RoPE of a {arch.family} model")
    for name in _SIZES:
        if not 0 < getattr(arch, name) <= _LARGEST:
            raise InputError(
                f"Expected {name} of a {arch.family} model from 1 to {_LARGEST}, got "
                f"{getattr(arch, name)}."
            )
    if arch.n_heads % arch.n_kv_heads or len(arch.layer_kinds) != arch.n_layers:
        raise InputError(
            f"Expected heads of a {arch.family} model in groups of one size, got {arch.n_heads} "
            f"and {arch.n_kv_heads} of keys and values."
        )
    ropes = [kind.rope for kind in arch.kinds if kind.rope]
    good = (r.theta > 0 < r.factor and r.high_factor != r.low_factor for r in ropes)
    if not all(good) or any(not 0 < r.fraction <= 1 for r in ropes) or arch.d_rotary % 2:
        raise InputError(f"Expected a RoPE with a positive base and factor, got {ropes}.")
    if not 0 <= arch.positions <= _LARGEST:
        raise InputError(f"Expected up to {_LARGEST} learned positions, got {arch.positions}.")
    if any(kind.window is not None and kind.window < 1 for kind in arch.kinds):
        raise InputError(f"Expected windows of at least one token, got {arch.kinds}.")
