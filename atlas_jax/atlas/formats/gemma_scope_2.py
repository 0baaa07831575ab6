"""Gemma Scope 2 (autoencoders of Gemma 3): `params.safetensors`, mostly with `config.json`.

The same JumpReLU as Gemma Scope. config.json names the model and the module that is read; where it
is missing, the names of the repository and of the folder do, as in

    gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_jax.atlas.formats.files import read_config, read_tensors, take, whole
from atlas_jax.atlas.formats.gemma_scope import NAMES
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble, refuse_transcoder
from atlas_jax.errors import InputError

CONFIG, WEIGHTS = "config.json", "params.safetensors"
_MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
_FOLDERS = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}


@whole
def load_gemma_scope_2(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder of Gemma Scope 2.

    Args:
        folder: with params.safetensors.
        extra: `hook_name` and `model_name`, where neither config.json nor the path says.

    Raises:
        InputError: a damaged file, a transcoder, or another architecture than JumpReLU.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    config = {**config, **(extra or {})}
    where = folder.expanduser().absolute().as_posix()
    architecture = config.get("architecture", "jump_relu")
    if architecture not in ("jump_relu", "jumprelu"):
        raise InputError(
            f"Expected architecture 'jump_relu' in {folder / CONFIG}, got {architecture!r}."
        )
    read, written = (config.get(f"hf_hook_point_{end}") for end in ("in", "out"))
    tensors = read_tensors(folder / WEIGHTS)
    if "affine_skip_connection" in tensors or (written and written != read):
        raise refuse_transcoder(str(written or folder))
    if re.search(r"/(transcoder|clt|crosscoder)", where):
        raise refuse_transcoder(folder.as_posix())
    tensors = {re.sub("^w_", "W_", name): value for name, value in tensors.items()}
    take(tensors, folder / WEIGHTS, NAMES)
    return LoadedSAE(
        assemble(tensors, "jumprelu", folder / WEIGHTS),
        str(config.get("hook_name") or _site(str(read or ""), where)),
        _model(str(config.get("model_name") or ""), where),
        None,
        config,
        str(config.get("neuronpedia_id") or ""),
    )


def _site(module: str, where: str) -> str:
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", module)
    if found and found[2] in _MODULES:
        return f"blocks.{found[1]}.{_MODULES[found[2]]}"
    folder = re.search(r"/(resid_post|attn_out|mlp_out)\w*/layer_(\d+)", where)
    return f"blocks.{folder[2]}.{_FOLDERS[folder[1]]}" if folder else ""


def _model(name: str, where: str) -> str:
    repository = re.search(r"gemma-scope-2-(\w+-(?:pt|it))", where)
    if not name and repository:
        name = f"gemma-3-{repository[1]}"
    # The configurations say `gemma-v3-...`, and the smallest base model has no suffix on the hub.
    name = name.replace("gemma-v3-", "gemma-3-").replace("270m-pt", "270m")
    return f"google/{name}" if name.startswith("gemma-3-") else name
