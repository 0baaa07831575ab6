"""sparsify (EleutherAI): `cfg.json` beside `sae.safetensors`, in a folder named by the module.

f = relu((x - b_dec) W_enc + b_enc) where it is one of the k largest of its token, else 0
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_jax.atlas.formats.files import read_config, read_tensors, take, whole
from atlas_jax.atlas.formats.loaded import LoadedSAE, assemble, check_size, refuse_transcoder
from atlas_jax.errors import InputError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_HOOKPOINT = re.compile(r"(?:model\.|transformer\.|gpt_neox\.)*(?:layers|h)\.(\d+)(?:\.(.+))?")
_MODULES = {
    None: "hook_resid_post",
    **dict.fromkeys(("mlp",), "hook_mlp_out"),
    **dict.fromkeys(("self_attn", "attn", "attention"), "hook_attn_out"),
}
_POST_NORM = ("gemma-2", "gemma-3", "olmo-2")


@whole
def load_sparsify(
    folder: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> LoadedSAE:
    """Reads a folder of sparsify.

    Args:
        folder: with cfg.json and sae.safetensors; its name is the module, such as `layers.10.mlp`,
            unless cfg.json has `hookpoint`. The run's config.json lies beside it and names the
            model.
        extra: `hook_name` and `model_name`, where those do not say.

    Raises:
        InputError: a damaged file, a transcoder, or another activation than top-k.
    """
    folder = Path(folder)
    config = {**read_config(folder / CONFIG), **(extra or {})}
    if config.get("transcode") or config.get("skip_connection"):
        raise refuse_transcoder("transcode or skip_connection")
    activation = config.get("activation") or "topk"
    if activation != "topk" or config.get("signed"):
        found = "signed topk" if config.get("signed") else activation
        raise InputError(f"Expected the activation 'topk' in {folder / CONFIG}, got '{found}'.")
    tensors = read_tensors(folder / WEIGHTS)
    take(tensors, folder / WEIGHTS, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
    sae = assemble(
        {
            "W_enc": tensors["encoder.weight"].T,
            "b_enc": tensors["encoder.bias"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        },
        "topk",
        folder / WEIGHTS,
        k=config.get("k"),
        subtract=True,
    )
    check_size(config, "d_in", sae.width, folder / CONFIG)
    if config.get("num_latents"):  # 0: d_in times the expansion factor
        check_size(config, "num_latents", sae.n_features, folder / CONFIG)
    run = folder.parent / "config.json"
    model = config.get("model_name") or (read_config(run).get("model") if run.is_file() else "")
    hookpoint = str(config.get("hookpoint") or folder.absolute().name)
    site = config.get("hook_name") or _site(hookpoint, str(model or ""))
    return LoadedSAE(sae, str(site), str(model or ""), None, config, "")


def _site(hookpoint: str, model: str) -> str:
    found = _HOOKPOINT.fullmatch(hookpoint)
    if not found or found[2] not in _MODULES:
        return ""
    if found[2] and any(family in model.lower() for family in _POST_NORM):
        raise InputError(
            f"{hookpoint} of {model} is read before the norm that follows it, which is no site "
            "here: use an autoencoder of the residual stream."
        )
    return f"blocks.{found[1]}.{_MODULES[found[2]]}"
