"""An activation reconstructor (AR): what vector an explanation describes, for the round trip Q7.

It is the first blocks of a language model, as many as the verbalizer's site is deep, without its
final norm, and a square head: v = W h, h the stream at the last token of a prompt that holds the
explanation. Only the direction of v is meant.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from safetensors.numpy import load_file

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.checkpoint import Checkpoint, Index
from atlas_jax.models.families import FAMILIES, read_arch
from atlas_jax.models.names import tensor_name
from atlas_jax.models.weights import load_decoder
from atlas_jax.outside import read_json, refusing
from atlas_jax.progress import Bar
from atlas_jax.verbalize.sidecar import SIDECAR, read_yaml

HEAD = "value_head.safetensors"
_ROLES = ("ar", "critic")
_PLACE = "{explanation}"
_BATCH = 8


@dataclass(frozen=True)
class Reconstructor:
    """A reconstructor.

    Attributes:
        model: a `LanguageModel` of the first blocks.
        head: W, (d, d).
        template: of the prompt, with `{explanation}`.
        block: whose output it stands for.
        suffix: token ids that every prompt must end with; empty: not checked.
    """

    model: Any
    head: Float[np.ndarray, "d d"]
    template: str
    block: int
    suffix: tuple[int, ...] = ()

    def rebuild(self, texts: Sequence[str]) -> Float64[np.ndarray, "n d"]:
        """The vector of each explanation.

        Raises:
            InputError: prompts that end in other tokens than the sidecar says.
        """
        tokenizer, site = self.model.tokenizer, f"blocks.{self.block}.hook_resid_post"
        rows = tokenizer.encode_batch([self.template.replace(_PLACE, text) for text in texts])
        ends = {tuple(row[len(row) - len(self.suffix) :]) for row in rows}
        if self.suffix and ends != {self.suffix}:
            raise InputError(
                f"Expected prompts that end in the tokens {list(self.suffix)}, got "
                f"{[list(end) for end in sorted(ends)][:2]}: another tokenizer?"
            )
        found = np.zeros((len(rows), len(self.head)))
        length = max(map(len, rows))
        with Bar("reconstructing", len(rows)) as bar:
            for start in range(0, len(rows), _BATCH):
                some = rows[start : start + _BATCH]
                filled = [*some, *[some[0]] * (_BATCH - len(some))]  # one shape, compiled once
                acts = self.model.read(*tokenizer.pad(filled, length), (site,))[site]
                last = np.stack([np.asarray(acts[i, len(r) - 1]) for i, r in enumerate(some)])
                found[start : start + len(some)] = last.astype(np.float64) @ self.head.T
                bar.advance(len(some))
        return found


def load_reconstructor(
    reference: str | os.PathLike[str], dtype: str = "float32", revision: str | None = None
) -> Reconstructor:
    """Loads a reconstructor.

    Args:
        reference: a folder in Hugging Face layout with `nla_meta.yaml` and
            `value_head.safetensors`, or a hub id.
        dtype: of the weights, `float32` or `bfloat16`.
        revision: of a hub id.

    Raises:
        InputError: no reconstructor, or one whose parts do not belong together.
    """
    from atlas_jax.models.language_model import LanguageModel
    from atlas_jax.models.lookup import find_checkpoint
    from atlas_jax.models.tokenizer import Tokenizer

    folder = find_checkpoint(str(reference), revision)
    if not (folder / SIDECAR).is_file():
        raise InputError(f"Expected {SIDECAR} in {folder}, found none.")
    data = read_yaml(folder / SIDECAR)
    role = str(data.get("role"))
    if role not in _ROLES:
        raise InputError(f"Expected a reconstructor (role ar or critic) in {folder}, got '{role}'.")
    with refusing(str(folder / SIDECAR)):
        templates, critic = data.get("prompt_templates") or {}, data.get("critic") or {}
        template = str(next((templates[name] for name in _ROLES if name in templates), ""))
        block = data.get("extraction_layer_index", critic.get("extraction_layer_index"))
        suffix = tuple(int(i) for i in (data.get("tokens") or {}).get("critic_suffix_ids") or ())
    if template.count(_PLACE) != 1 or type(block) is not int or block < 0:
        raise InputError(
            f"Expected a prompt with {_PLACE} once and extraction_layer_index in "
            f"{folder / SIDECAR}, got {template!r} and {block!r}."
        )
    head = _read_head(folder / HEAD)
    arch = read_arch(read_json(folder / "config.json"))
    if head.shape != (arch.d_model, arch.d_model) or arch.n_layers <= block:
        raise InputError(
            f"Expected a head of shape {(arch.d_model, arch.d_model)} and more than {block} layers "
            f"in {folder}, got {head.shape} and {arch.n_layers}."
        )
    body = _Body(folder, arch)
    decoder = load_decoder(body, body.arch, dtype)
    name, fingerprint = Path(reference).name, f"{body.fingerprint()[:32]}-{dtype}"
    model = LanguageModel(decoder, Tokenizer(folder), name, fingerprint)
    return Reconstructor(model, head, template, block, suffix)


def _read_head(path: Path) -> Float[np.ndarray, "d d"]:
    with refusing(f"one matrix in {path}"):
        (head,) = load_file(path).values()
        return head.astype(np.float64)


class _Body(Checkpoint):
    """The blocks of a reconstructor: without its head, and with the final norm and the unembedding
    that it does not have (nothing is read above the last block).

    Args:
        folder: of the checkpoint.
        arch: by its config.
    """

    def __init__(self, folder: Path, arch: Arch) -> None:
        super().__init__(folder)
        self.files = [file for file in self.files if file.path.name != HEAD]
        kept = [name for name, file in self.where.items() if file.path.name != HEAD]
        self.where = {name: self.where[name] for name in kept}
        self.shapes = {name: self.shapes[name] for name in kept}
        family = FAMILIES[arch.family]
        there = {family.table_name(name) for name in kept}
        names = family.names(arch)
        if tensor_name(names["head.kernel"]) not in there:
            arch = replace(arch, tied=True)
        for key in ("norm.weight", "norm.bias"):
            name = tensor_name(names[key]) if key in names else None
            if name is not None and name not in there:
                self.where[name] = _Ones(folder / name, arch.d_model)
                self.shapes[name] = (arch.d_model,)
        self.arch = arch


class _Ones:
    """A vector of ones where a file has none."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.path.name: (self.width,)}

    def read(self, name: str, index: Index) -> np.ndarray:
        return np.ones(self.width, np.float32)[index]

    def header(self) -> bytes:
        return b""
