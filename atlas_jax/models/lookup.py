"""Where a model's files are: an asset, a folder, a GGUF file to convert, or the hub."""

from __future__ import annotations

import os
from pathlib import Path

from atlas_jax.errors import InputError
from atlas_jax.outside import refusing


def find_checkpoint(reference: str, revision: str | None = None) -> Path:
    """The local folder of a model, fetched or converted if need be."""
    from atlas_jax import assets

    if reference in assets.ASSETS:
        path = assets.fetch(reference)
    else:
        with refusing(f"the model {reference!r}"):  # some names are no paths
            path = Path(reference).expanduser()
    if os.path.isdir(path):
        files = sorted(path.glob("*.gguf"))
        if not (path / "config.json").exists() and files:
            path = files[0]
        elif not (path / "config.json").exists():
            raise InputError(f"Expected config.json or a .gguf file in {path}, found neither.")
        else:
            return path
    if os.path.isfile(path):
        return _convert(path)
    return _from_hub(reference, revision)


def _convert(path: Path) -> Path:
    from atlas_jax import assets
    from atlas_jax.models.gguf import convert_gguf

    stat = path.stat()
    folder = assets.cache_folder() / "converted" / f"{path.stem}-{stat.st_size}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return convert_gguf(path, folder)


def _from_hub(reference: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from atlas_jax import assets

    known = f"assets: {', '.join(n for n, a in sorted(assets.ASSETS.items()) if a.hub_id)}"
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "nla_meta.yaml"]
    try:
        folder = Path(snapshot_download(reference, revision=revision, allow_patterns=patterns))
        if not list(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(
                    reference, revision=revision, allow_patterns=[*patterns, "pytorch_model*.bin"]
                )
            )
        return folder
    except HFValidationError:
        raise InputError(
            f"Expected a model (a folder, a GGUF file, a hub id, or one of the {known}), got "
            f"'{reference}'."
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise InputError(
            f"The hub did not give '{reference}' (HTTP {status}): check the name, and log in if "
            "it is gated."
        ) from None
    except Exception as error:
        raise InputError(
            f"'{reference}' is no local model, and the hub cannot be reached "
            f"({type(error).__name__}). Connect, give a folder, or use one of the {known}."
        ) from None
