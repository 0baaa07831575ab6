"""Where an autoencoder's files are: in the package, a folder, a SAELens release, or the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from atlas_jax.atlas.formats import SAE_FORMATS
from atlas_jax.errors import InputError
from atlas_jax.outside import refusing

RELEASED = Path(__file__).parent / "released"
TABLE = Path(__file__).parent / "releases.json"


@dataclass(frozen=True)
class Found:
    """An autoencoder's folder, and what its reference says beyond its files.

    Attributes:
        folder: local.
        name: as the user called it; a folder's own name.
        model: whose activations, where the files may not say.
        extra: entries of the configuration that the files lack.
    """

    folder: Path
    name: str
    model: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def find_sae(
    reference: str | os.PathLike[str], sae_id: str | None = None, revision: str | None = None
) -> Found:
    """The folder of an autoencoder, downloaded if need be; of a hub repository, only its files.

    Args:
        reference: the name of an atlas that ships; a folder; a release as SAELens names it, alone
            or with the id after a slash; or `owner/repository/folder` on the hub.
        sae_id: the id within a release, or the folder within a repository.
        revision: of a repository.

    Raises:
        InputError: naming what was expected, and the nearest that there is.
    """
    name = os.fspath(reference)
    shipped = released()
    if name in shipped and sae_id is None:
        return Found(shipped[name], name)
    name = "/".join(part.strip("/") if i else part for i, part in enumerate((name, sae_id)) if part)
    with refusing(f"the atlas {name!r}"):  # some names are no paths
        folder = Path(name).expanduser()
    if os.path.isdir(folder):
        return Found(folder, folder.absolute().name)
    head, _, tail = name.partition("/")
    table = releases()
    if head in table:
        return _from_release(head, tail.strip("/"), table[head], name, revision)
    if "transcoder" in name.lower():
        raise InputError(
            f"Expected a sparse autoencoder, got a transcoder ({name}), which reads one site and "
            "writes another."
        )
    parts = [part for part in name.split("/") if part]
    if ".." in parts:
        raise InputError(f"Expected a name without '..' on the hub, got {name!r}.")
    if len(parts) < 2 or name.startswith((".", "/", "~")):
        near = get_close_matches(head, [*shipped, *table], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"Expected an atlas that ships ({', '.join(shipped)}), a folder, a release of SAELens "
            f"with an id, or owner/repository/folder on the hub, got '{name}'.{hint}"
        )
    return Found(_download("/".join(parts[:2]), "/".join(parts[2:]), name, revision), name)


def released() -> dict[str, Path]:
    """The atlases that ship with the package, by name."""
    if not RELEASED.is_dir():
        return {}
    return {p.name: p for p in sorted(RELEASED.iterdir()) if (p / "cfg.json").exists()}


def hub_model(name: str) -> str:
    """A model's name on the hub, of one in TransformerLens' spelling; other names as they are."""
    return _table()["models"].get(name, name)


def releases() -> dict[str, dict[str, Any]]:
    """SAELens' releases by name (from its own directory, MIT licence; see `source` in the file)."""
    return _table()["releases"]


@cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text("utf-8"))


def _from_release(
    release: str, sae_id: str, facts: Mapping[str, Any], name: str, revision: str | None
) -> Found:
    paths = facts["paths"]
    if not sae_id or (isinstance(paths, dict) and sae_id not in paths):
        known = list(paths) if isinstance(paths, dict) else list(facts.get("neuronpedia", ()))
        near = get_close_matches(sae_id, known, n=3, cutoff=0.3) or known[:3]
        examples = f", such as {', '.join(near)}" if near else ""
        raise InputError(
            f"Expected an id of the release {release}{examples}, got '{sae_id or 'none'}'."
        )
    path = paths[sae_id] if isinstance(paths, dict) else paths.replace("{id}", sae_id)
    extra = dict(facts.get("config", {}))
    if sae_id in facts.get("scales", {}):
        extra["norm_scaling_factor"] = facts["scales"][sae_id]
    if sae_id in facts.get("neuronpedia", {}):
        extra["neuronpedia_id"] = facts["neuronpedia"][sae_id]
    folder = _download(facts["repo"], path, name, revision)
    return Found(folder, name, facts["model"], extra)


def _download(repository: str, path: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = {file for kind in SAE_FORMATS.values() for file in (kind.weights, *kind.configs)}
    wanted |= {"labels.jsonl", "card.json"}
    patterns = sorted(os.path.normpath(os.path.join(path, file)) for file in wanted)
    try:
        root = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise InputError(f"'{repository}' is no name of a hub repository: {error}.") from None
    except LocalEntryNotFoundError:
        raise InputError(
            f"'{name}' is no folder here, and the hub cannot be reached for {repository}: connect, "
            "or give a folder."
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise InputError(
            f"The hub did not give {repository} (HTTP {status}): check the name, and log in if it "
            "is gated."
        ) from None
    except Exception as error:
        raise InputError(
            f"'{name}' is no folder here, and the hub cannot be reached for {repository} "
            f"({type(error).__name__}): connect, or give a folder."
        ) from None
    folder = root / path
    if not any((folder / kind.weights).is_file() for kind in SAE_FORMATS.values()):
        raise InputError(
            f"Expected an autoencoder at {path or 'the root'} of {repository}, it has none of "
            f"{', '.join(kind.weights for kind in SAE_FORMATS.values())} there."
        )
    return folder
