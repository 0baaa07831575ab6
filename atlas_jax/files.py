"""Files that are whole or not there at all, and tensors that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax import outside
from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json, why

_CHECKSUMS = "atlas_jax.sha256"
SEAL = "sha256"
"""The entry of a JSON object that is the checksum of the others."""
_READ = 1 << 22
"""Values of a stored tensor that are read at a time."""
_STALE = 86400.0
"""Seconds after which a draft of another machine is nobody's any more."""
_swept: set[Path] = set()


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
    owner = f"{platform.node()}.{os.getpid()}.{threading.get_ident()}"
    draft = path.with_name(f".{path.name}.{owner}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
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


def _sweep(folder: Path) -> None:
    """Removes drafts that killed processes left; once for each folder that this process writes."""
    if folder in _swept:
        return
    _swept.add(folder)
    for draft in folder.glob(".*.partial"):
        with suppress(OSError):  # another process was faster
            found = re.search(rf"\.{re.escape(platform.node())}\.(\d+)\.\d+\.partial$", draft.name)
            dead = found is not None and not is_alive(int(found[1]))
            if dead or time.time() - draft.stat().st_mtime > _STALE:
                draft.unlink()


def is_alive(pid: int) -> bool:
    """Whether this machine runs a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: str | os.PathLike[str], text: str, **how: str) -> Path:
    """Writes a text file in one step (see `writing`), with "?" for what UTF-8 cannot hold."""
    with writing(path, **how) as draft:
        draft.write_text(text, "utf-8", "replace", "\n")
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any, **how: str) -> Path:
    """Writes a JSON file in one step (see `writing`)."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", **how)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"Could not read {path}: {error.strerror}. Make it again.") from None


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    **how: str,
) -> Path:
    """Writes a safetensors file in one step, with the sha256 of each tensor and of the notes."""
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    sums = {name: _checksum(value) for name, value in arrays.items()} | {"": _digest(notes)}
    with writing(path, **how) as draft:
        save_file(arrays, draft, {**notes, _CHECKSUMS: json.dumps(sums)})
        _sort_notes(draft)
    return Path(path)


def _sort_notes(draft: Path) -> None:
    """safetensors writes the notes in an order of chance; the same contents get the same bytes."""
    with draft.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


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
        check_tensors(notes, tensors, prefix)
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


def check_tensors(
    notes: Mapping[str, str], tensors: Mapping[str, Any], prefix: str | None = ""
) -> None:
    """Compares with the checksums among the notes, if there are some: others wrote no such file.

    Args:
        notes: of the file.
        tensors: arrays, or slices of safetensors, of which a few rows at a time are read.
        prefix: of the names of those that are looked at; None: the notes alone.

    Raises:
        ValueError: naming what differs.
    """
    if _CHECKSUMS not in notes:
        return
    sums = parse_json(notes[_CHECKSUMS])
    if not isinstance(sums, dict):
        raise ValueError("its checksums are no table")
    found = {name: _checksum(value) for name, value in tensors.items()}
    known = {} if prefix is None else {n: s for n, s in sums.items() if n and n.startswith(prefix)}
    for name in sorted(found.keys() | known.keys()):
        if found.get(name) != sums.get(name):
            raise ValueError(f"the checksum of {name} differs")
    if sums.get("") != _digest({name: text for name, text in notes.items() if name != _CHECKSUMS}):
        raise ValueError("the checksum of its notes differs")


def _checksum(rows: Any) -> str:
    """Of an array, or of a slice of safetensors."""
    shape = tuple(rows.shape if isinstance(rows, np.ndarray) else rows.get_shape())
    step = max(1, _READ // max(1, math.prod(shape[1:]))) if shape else 1
    ends = ((i, min(i + step, shape[0])) for i in range(0, shape[0], step)) if shape else ()
    parts = (rows[start:stop] for start, stop in ends) if shape else [rows]
    found = None
    for part in parts:
        values = np.ascontiguousarray(part)
        found = found or hashlib.sha256(f"{values.dtype.name}{shape}".encode())
        found.update(values.reshape(-1).view(np.uint8).data)
    if found is None:
        found = hashlib.sha256(f"{rows[:0].dtype.name}{shape}".encode())
    return found.hexdigest()


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum as one more entry, which `unsealed` takes away."""
    plain = json.loads(outside.utf8(json.dumps(dict(value), ensure_ascii=False)))
    return {**plain, SEAL: _digest(plain)}


def unsealed(value: Any) -> Any:
    """What `sealed` was given; a value without a checksum as it is.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(value, dict) or not value:
        return value
    seal = SEAL if SEAL in value else next(reversed(value))  # whose own name may be damaged
    plain = {key: entry for key, entry in value.items() if key != seal}
    right = value[seal] == _digest(plain)
    if seal != SEAL and not right:
        return value
    if seal != SEAL or not right:
        raise ValueError(f"its contents are not those of its {SEAL}")
    return plain


def write_sum(path: str | os.PathLike[str]) -> Path:
    """Writes the sha256 of a text that people may edit beside it, as sha256sum does."""
    path = Path(path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return write_text(_sum_of(path), f"{content}  {path.name}\n")


def check_sum(path: str | os.PathLike[str], remedy: str) -> None:
    """Compares a file with what `write_sum` wrote, if there is that.

    Raises:
        InputError: they differ.
    """
    path, beside = Path(path), _sum_of(Path(path))
    if not beside.is_file():
        return
    known = beside.read_text("utf-8", "replace").split(" ")[0]
    if known != hashlib.sha256(path.read_bytes()).hexdigest():
        raise InputError(
            f"{path} was changed or damaged (see {beside.name}): {remedy}; or, if you changed it, "
            f"delete {beside.name}."
        )


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.{SEAL}")


def read_json(path: str | os.PathLike[str], what: str, remedy: str, kind: type = dict) -> Any:
    """A JSON file of ours, its checksum compared if it has one (see `sealed`).

    Args:
        path: the file.
        what: it should be, such as "query".
        remedy: what to do with a damaged one, such as "make it again".
        kind: of the value.

    Raises:
        InputError: no such file, or a damaged one.
    """
    if not Path(path).exists():
        raise InputError(f"Expected a {what} at {path}, there is no such file.")
    value = outside.read_json(Path(path), f"the {what}", remedy[:1].upper() + remedy[1:], kind)
    try:
        return unsealed(value)
    except ValueError as error:
        raise InputError(f"The {what} at {path} is damaged ({error}): {remedy}.") from None
