"""Fitted maps on the Hugging Face hub: one safetensors file and a card made from its header."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from atlas_jax.errors import InputError
from atlas_jax.files import write_text

T = TypeVar("T")


def push(
    save: Callable[[Path], object],
    name: str,
    card: str,
    repo_id: str,
    token: str | None,
    **how: Any,
) -> str:
    """Uploads what `save` writes as `name`, and `card` as README.md, in one commit.

    Args:
        save: writes the file at a path.
        name: of the file in the repository.
        card: the model card.
        repo_id: `owner/name`; made if need be.
        token: of the hub; default: the one that is logged in. It is never printed.
        how: `private` and `revision`.

    Returns:
        The address of the commit.

    Raises:
        InputError: the hub refuses, or is out of reach.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        write_text(Path(folder) / "README.md", card)
        api = HfApi(token=token)

        def upload() -> str:
            api.create_repo(repo_id, private=how.get("private"), exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=how.get("revision"),
                commit_message=f"Add {name}",
            )
            return str(done.commit_url)

        return _asked(upload, f"take '{repo_id}'", token)


def pull(name: str, repo_id: str, revision: str | None, token: str | None) -> Path:
    """The local copy of a file of a repository.

    Raises:
        InputError: no such repository or file, no access, or the hub is out of reach.
    """
    from huggingface_hub import hf_hub_download

    def download() -> Path:
        return Path(hf_hub_download(repo_id, name, revision=revision, token=token))

    return _asked(download, f"give {name} of '{repo_id}'", token)


def _asked(call: Callable[[], T], what: str, token: str | None) -> T:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return call()
    except InputError:
        raise
    except HFValidationError:
        raise InputError(f"Expected a repository like owner/name: the hub cannot {what}.") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise InputError(
            f"The hub did not {what} (HTTP {status}): check the name, and log in (hf auth login) "
            "with a token that may do that."
        ) from None
    except Exception as error:  # what a client of the network may raise is a long list
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = reason.replace(token, "***") if token else reason
        raise InputError(f"The hub did not {what} ({type(error).__name__}: {reason}).") from None


def card(title: str, about: str, load: str, name: str, header: Mapping[str, Any]) -> str:
    """A model card: what the file is, how to load it, and its header.

    Args:
        title: the heading.
        about: what it is, in a few lines.
        load: an expression that loads it.
        name: of the file.
        header: its metadata; long lists are left to the file.
    """
    bases = [str(side.get("model")) for side in header.values() if _names_a_model(side)]
    known = [base for base in bases if base.count("/") == 1 and not base.startswith(("/", "."))]
    lines = ["---", "library_name: atlas-jax", "tags: [interpretability, atlas-jax]"]
    lines += ["base_model:", *(f"- {base}" for base in known)] if known else []
    lines += ["---", "", f"# {title}", "", about, "", "```python", "import atlas_jax as aj", ""]
    lines += [load, "```", "", f"Header of `{name}`:", "", "```json"]
    lines += [json.dumps(_short(dict(header)), indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _names_a_model(side: Any) -> bool:
    return isinstance(side, Mapping) and bool(side.get("model"))


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        cut = len(value) > 40
        return f"{len(value)} entries" if cut else {k: _short(v) for k, v in value.items()}
    if isinstance(value, list) and len(value) > 12:
        return f"{len(value)} values"
    return value
