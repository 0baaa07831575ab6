"""Control vectors: what llama.cpp, repeng and EasySteer add to the residual stream, as GGUF."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.files import writing
from atlas_jax.models import Edit, LanguageModel, parse_site

_KIND = "controlvector"


def export_control_vector(
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    model: LanguageModel,
    *,
    approximate: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a GGUF file with a tensor `direction.N` for each layer, added after block N.

    The strength is part of the tensors; N = 0 is not used by llama.cpp and refused. What was done
    with each edit stands in `general.description`, and `about` as JSON in `atlas_jax.about`.

    Args:
        edits: in mode `add`, since a control vector is only ever added.
        path: of the file.
        model: the subject; its family is the file's `controlvector.model_hint`.
        approximate: also write what is not the same as the edit: see `residual_directions`.
        about: what else the file should say.

    Raises:
        InputError: what `residual_directions` refuses, or a place that cannot be written to.
    """
    from gguf import GGUFWriter

    directions, notes = residual_directions(edits, model, approximate)

    def write(draft: Path) -> None:
        writer = GGUFWriter(draft, _KIND)
        writer.add_string(f"{_KIND}.model_hint", model.arch.family.removesuffix("_text"))
        writer.add_uint32(f"{_KIND}.layer_count", len(directions))
        writer.add_description(" ".join(notes))
        writer.add_string("atlas_jax.about", json.dumps(dict(about or {}), ensure_ascii=False))
        for layer, vector in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", vector)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    path = Path(path).expanduser()
    with writing(path) as draft:
        write(draft)
    return path


def residual_directions(
    edits: Sequence[Edit], model: LanguageModel, approximate: bool = False
) -> tuple[dict[int, Float32[np.ndarray, " d"]], list[str]]:
    """What the edits add to the residual stream after each block, and how that was found.

        hook_resid_post of N      direction.N     += lambda s
        hook_resid_pre of N       direction.(N-1) += lambda s
        hook_mlp_out of N         direction.N     += lambda s
        mlp.hook_post of N        direction.N     += lambda W_down s

    The last is exact where the MLP's output goes into the stream as it is. Where a norm follows
    (Gemma 2 and 3, OLMo 2), what comes out depends on the token; `approximate` then writes
    lambda w * (W_down s), w the weights of that norm, its division by the root mean square left
    out, so that the strength has another unit. `approximate` also takes edits in mode `steer`,
    whose norm is then not kept.

    Returns:
        {N: direction}, float32, and a sentence for each edit.

    Raises:
        InputError: a site that adds nothing to the stream after a block, or layer 0; without
            `approximate`, another mode than `add`, or neurons before a norm.
    """
    found: dict[int, Float64[np.ndarray, " d"]] = {}
    notes = []
    for edit in edits:
        _check_mode(edit, approximate)
        vector, layer, note = _into_stream(edit, model, approximate)
        if layer < 1:
            raise InputError(
                f"A control vector cannot act after block 0, which llama.cpp leaves out; "
                f"{edit.site} would: choose a later layer."
            )
        found[layer] = found.get(layer, 0.0) + edit.strength * vector
        notes.append(f"direction.{layer}: {edit.strength:g} times {note}.")
        if edit.mode == "steer":
            notes.append("Approximate: the edit's norm is not kept.")
    return {layer: vector.astype(np.float32) for layer, vector in found.items()}, notes


def _check_mode(edit: Edit, approximate: bool) -> None:
    if edit.mode == "add" or (approximate and edit.mode == "steer"):
        return
    more = (
        " (or ask for it to be approximate: the activations' norm then is not kept)"
        if edit.mode == "steer"
        else ""
    )
    raise InputError(
        f"A control vector is added to the residual stream, so it cannot {edit.mode}: ask for mode "
        f"add{more}."
    )


def _into_stream(
    edit: Edit, model: LanguageModel, approximate: bool
) -> tuple[Float64[np.ndarray, " d"], int, str]:
    arch, site = model.arch, parse_site(edit.site, model.arch)
    s = np.asarray(edit.vector, np.float64)
    if len(s) != model.width(edit.site):
        raise InputError(
            f"Expected a vector of {model.width(edit.site)} features for {edit.site}, got {len(s)}."
        )
    if site.point in ("hook_resid_post", "hook_mlp_out"):
        return s, site.layer, f"the vector of {edit.site}"
    if site.point == "hook_resid_pre":
        return s, site.layer - 1, f"the vector of {edit.site}"
    if site.point != "mlp.hook_post":
        raise InputError(
            f"Expected residual sites or MLP neurons, got {edit.site}: what is added there also "
            "changes what the block's MLP does, which no control vector can."
        )
    block = nnx.merge(model.graph, model.state).blocks
    out = s @ np.asarray(block.down.kernel[...][site.layer], np.float64)
    if not arch.post_norms:
        return out, site.layer, f"the scores of {edit.site} through the down projection"
    if not approximate:
        raise InputError(
            f"In {arch.family} a norm follows the MLP, so neurons of {edit.site} add another "
            "vector on each token: fit a residual site, or ask for the approximate one."
        )
    weight = np.asarray(block.post_mlp.weight[...][site.layer], np.float64) + arch.norm_offset
    note = (
        f"the scores of {edit.site} through the down projection and the weights of the norm after "
        "it. Approximate: that norm's division by the root mean square is left out"
    )
    return weight * out, site.layer, note
