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
    if family not in FAMILIES:
        raise InputError(
            f"Expected a model of family {', '.join(sorted(FAMILIES))}, got model_type={family!r}."
        )
    get = Config(config)
    arch = FAMILIES[family].read(get)
    get.finish()
    return arch
