"""Files that are whole or not there at all, and tensors that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json, why

_CHECKSUMS = "atlas_jax.sha256"


@contextmanager
def writing(
    path: str | os.PathLike[str], remedy: str = "Free some space, or name another file"
) -> Iterator[Path]:
    """A draft beside `path`, which takes its name if the block ends well, and goes if it does not.

    Args:
        path: the file; its folder is made.
        remedy: what to do where it cannot be written.

    Raises:
        InputError: it cannot be written.
    """
    from safetensors import SafetensorError

    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        draft.chmod(mode)  # safetensors makes files that only their owner may read
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Could not write {path}: {reason}. {remedy}.") from None
    finally:
        with suppress(OSError):  # there is none where even the folder could not be made
            draft.unlink()


def write_text(path: str | os.PathLike[str], text: str, **how: str) -> Path:
    """Writes a text file in one step (see `writing`), with "?" for what UTF-8 cannot hold."""
    with writing(path, **how) as draft:
        draft.write_bytes(text.encode("utf-8", "replace"))
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any, **how: str) -> Path:
    """Writes a JSON file in one step (see `writing`)."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", **how)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    **how: str,
) -> Path:
    """Writes a safetensors file in one step, with the sha256 of each tensor and of the notes."""
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sums = {name: _checksum(value) for name, value in arrays.items()} | {"": _of_notes(notes)}
    with writing(path, **how) as draft:
        save_file(arrays, draft, {**notes, _CHECKSUMS: json.dumps(sums)})
    return Path(path)


def read_tensors(
    path: str | os.PathLike[str],
    what: str,
    remedy: str,
    kind: str = "",
    header: str = "",
    needs: Collection[str] = (),
    prefix: str | None = "",
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The notes and the tensors of a safetensors file; what `write_tensors` wrote is checked.

    Args:
        path: the file.
        what: it should be, such as "translation".
        remedy: what to do with a damaged one, such as "fit it again".
        kind: that the note `format` must name; "": any.
        header: the note that holds JSON, which is read.
        needs: tensors that must be there.
        prefix: of the tensors that are wanted; None: the notes alone.

    Raises:
        InputError: no such file, another format, or a damaged one.
    """
    from safetensors import safe_open

    if not os.path.isfile(path):
        raise InputError(f"Expected a {what} at {path}, there is no such file.")
    try:
        with safe_open(path, framework="np") as file:
            notes: dict[str, Any] = dict(file.metadata() or {})
            if kind and notes.get("format") != kind:
                raise InputError(
                    f"Expected a file of format '{kind}' at {path}, got '{notes.get('format')}'."
                )
            names = [] if prefix is None else [n for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
        check_tensors(notes, tensors)
        missing = sorted(set(needs) - set(tensors))
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        if header:
            notes[header] = parse_json(notes.get(header, ""))
    except InputError:
        raise
    except Exception as error:  # a header may hold anything
        raise InputError(f"The {what} at {path} is damaged ({why(error)}): {remedy}.") from None
    notes.pop(_CHECKSUMS, None)
    return notes, tensors


def check_tensors(notes: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> None:
    """Compares with the checksums among the notes, if there are some: others wrote no such file.

    Raises:
        ValueError: naming what differs.
    """
    if _CHECKSUMS not in notes:
        return
    sums = parse_json(notes[_CHECKSUMS])
    found = {name: _checksum(value) for name, value in tensors.items()}
    found[""] = _of_notes({name: text for name, text in notes.items() if name != _CHECKSUMS})
    for name, value in found.items():
        if not isinstance(sums, dict) or sums.get(name) != value:
            raise ValueError(f"the checksum of {name or 'its notes'} differs")


def _checksum(array: np.ndarray) -> str:
    found = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _of_notes(notes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(notes), sort_keys=True).encode()).hexdigest()
