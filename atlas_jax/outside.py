"""Bytes that others wrote: read within their own size, or refused in one line."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from atlas_jax.errors import InputError

_SLACK = 1 << 20
_LARGEST_JSON = 1 << 28
_LARGEST_INT = 1 << 62


@contextmanager
def refusing(what: str, remedy: str = "") -> Iterator[None]:
    """Whatever wrong bytes raise within becomes the user's one line; its cause stays attached.

    What parsers raise is a long list, and no part of it is a promise; so the block should hold the
    reading of one thing, and nothing else.

    Args:
        what: is read, such as "the labels in FILE".
        remedy: what to do.

    Raises:
        InputError: "Could not read <what>: <why>. <remedy>."
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # A panic of a parser in Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        end = f" {remedy.rstrip('.')}." if remedy else ""
        raise InputError(f"Could not read {what}: {why(error)}.{end}") from error


def why(error: BaseException) -> str:
    """What was wrong with bytes, from what their parser raised."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError):
        return f"{text} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TypeError | AttributeError | IndexError | AssertionError):
        return f"a value is of another kind than expected ({text[:200] or 'no reason given'})"
    return text[:300].rstrip(".") or type(error).__name__


def read_json(path: Path, what: str = "", remedy: str = "", kind: type = dict) -> Any:
    """The JSON value of a file.

    Args:
        path: the file, of at most 256 MiB.
        what: it is, such as "the card of an atlas"; default: "JSON".
        remedy: what to do with a damaged one.
        kind: of the value.

    Raises:
        InputError: no such file, no JSON, or a value of another kind.
    """
    name = f"{what} ({path})" if what else f"JSON in {path}"
    with refusing(name, remedy):
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it is larger than {_LARGEST_JSON >> 20} MiB")
        value = parse_json(path.read_text("utf-8"))
        if not isinstance(value, kind):
            expected = {dict: "a JSON object", list: "a JSON list"}.get(kind, kind.__name__)
            raise ValueError(f"expected {expected}, got {type(value).__name__}")
        return value


def parse_json(text: str | bytes, once: bool = False) -> Any:
    """A JSON value.

    Args:
        text: its text.
        once: refuse a key that comes twice, where another parser might take the other value.

    Raises:
        ValueError: no JSON, or nesting that is too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key comes twice")
    return made


def utf8(text: str) -> str:
    """The text with "?" in place of what UTF-8 cannot hold: surrogates that stand alone."""
    return text.encode("utf-8", "replace").decode("utf-8")


def inside(folder: Path, name: str) -> Path:
    """The path of a name that somebody else gave, which must lie in a folder.

    Raises:
        InputError: a name that leads out of it.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or re.search(r"[\\:\0]", name):
        raise InputError(f"Expected the name of a file within {folder}, got {name[:200]!r}.")
    return folder / name


def check_zip(source: str | os.PathLike[str] | io.BufferedIOBase) -> None:
    """Refuses an archive that would unpack to more than twice its size, and a mebibyte.

    Raises:
        ValueError: it would, or is no archive.
    """
    with zipfile.ZipFile(source) as archive:
        file = archive.fp
        assert file is not None
        size = file.seek(0, os.SEEK_END)
        total = sum(member.file_size for member in archive.infolist())
    if total > 2 * size + _SLACK:
        raise ValueError(f"its {size} bytes would unpack to {total}: save it without compression")


def read_npz(source: str | os.PathLike[str] | io.BufferedIOBase) -> dict[str, np.ndarray]:
    """The arrays of a .npz file. No pickle is loaded, and no header is believed beyond its bytes.

    Raises:
        ValueError, KeyError, OSError, ...: a damaged one (see `refusing`).
    """
    check_zip(source)
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                found[member.filename.removesuffix(".npy")] = _read_array(stream, member.file_size)
    return found


def _read_array(stream: Any, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"an array of version {version}")
    shape, by_columns, dtype = read[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, and reading them could run code")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or not dtype.itemsize or count * dtype.itemsize > size:
        raise ValueError(f"an array of shape {shape} and {dtype} has no room in {size} bytes")
    values = np.empty(count, dtype)
    raw = memoryview(values.view(np.uint8).data)
    if stream.readinto(raw) != len(raw):
        raise ValueError("an array is cut off")
    order: Literal["F", "C"] = "F" if by_columns else "C"
    return values.reshape(shape, order=order)


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a .npy file, mapped: no more is read than is used, and no pickle is loaded.

    Raises:
        ValueError, OSError, ...: a damaged one (see `refusing`).
    """
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an archive of several arrays")
    return found


def check_fields(made: Any, what: str) -> None:
    """Checks each field of a dataclass, whose values came from outside, against its annotation.

    Integers are below 2^62 and floats are finite.

    Raises:
        InputError: naming the first that is of another type.
    """
    for name, kind in get_type_hints(type(made)).items():
        value = getattr(made, name)
        if not _fits(value, kind):
            shown = str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))
            raise InputError(f"Expected {name} of {what} as {shown}, got {str(value)[:200]!r}.")


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is ...:
            parts = parts[:1] * len(value)
        return len(parts) == len(value) and all(map(_fits, value, parts))
    if kind in (None, NoneType):
        return value is None
    if kind is float:
        return (type(value) is float and math.isfinite(value)) or _fits(value, int)
    if kind is int:
        return type(value) is int and abs(value) < _LARGEST_INT
    return isinstance(value, origin or kind)
