"""Formats of sparse autoencoders on disk: one file each, one line in `SAE_FORMATS`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from atlas_jax.atlas.formats.dictionary_learning import load_dictionary_learning
from atlas_jax.atlas.formats.gemma_scope import load_gemma_scope
from atlas_jax.atlas.formats.gemma_scope_2 import load_gemma_scope_2
from atlas_jax.atlas.formats.llama_scope import load_llama_scope
from atlas_jax.atlas.formats.loaded import LoadedSAE
from atlas_jax.atlas.formats.saelens import load_saelens, save_saelens
from atlas_jax.atlas.formats.sparsify import load_sparsify
from atlas_jax.errors import InputError


class Loader(Protocol):
    """Reads a folder; `extra` are entries of the configuration that its files lack."""

    def __call__(self, folder: Path, extra: dict[str, Any] | None = None) -> LoadedSAE: ...


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        load: reads a folder.
        weights: the file that tells the format.
        configs: other files that it reads, from the same folder or the one above.
    """

    load: Loader
    weights: str
    configs: tuple[str, ...] = ()


SAE_FORMATS: dict[str, Format] = {
    "saelens": Format(load_saelens, "sae_weights.safetensors", ("cfg.json",)),
    "gemma_scope": Format(load_gemma_scope, "params.npz"),
    "gemma_scope_2": Format(load_gemma_scope_2, "params.safetensors", ("config.json",)),
    "llama_scope": Format(load_llama_scope, "checkpoints/final.safetensors", ("hyperparams.json",)),
    "sparsify": Format(load_sparsify, "sae.safetensors", ("cfg.json", "../config.json")),
    "dictionary_learning": Format(load_dictionary_learning, "ae.pt", ("config.json",)),
}


def find_format(folder: Path) -> str:
    """The format of a folder, by the file of weights in it.

    Raises:
        InputError: none of those files.
    """
    for name, kind in SAE_FORMATS.items():
        if (folder / kind.weights).is_file():
            return name
    known = ", ".join(f"{kind.weights} ({name})" for name, kind in SAE_FORMATS.items())
    raise InputError(f"Expected a sparse autoencoder in {folder}, that is one of {known}.")


__all__ = [
    "SAE_FORMATS",
    "Format",
    "LoadedSAE",
    "find_format",
    "load_saelens",
    "save_saelens",
]
