"""What a store holds: its meta.json, and whether that is what is wanted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import tensorstore as ts

from atlas_jax.activations.kvstore import create, read_json
from atlas_jax.activations.layout import FORMAT, META
from atlas_jax.errors import InputError
from atlas_jax.outside import refusing

_SEAL = "sha256"


def create_meta(kv: ts.KvStore, meta: Mapping[str, Any]) -> bool:
    """Writes the meta of a new store, with its checksum; False where there is one already."""
    sealed = {**meta, _SEAL: _checksum(meta)}
    return create(kv, META, json.dumps(sealed, indent=1).encode())


def _checksum(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def read_meta(kv: ts.KvStore, url: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The meta of a store; None where there is no store.

    Raises:
        InputError: a damaged one, or one of another format.
    """
    meta = read_json(kv, META)
    if meta is None:
        return None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise InputError(
            f"Expected a store of format {FORMAT} at {url}, got {found}: it was written by another "
            "version. Use another folder, or delete this one."
        )
    if meta.pop(_SEAL, None) != _checksum(meta):
        raise InputError(f"{META} in {url} is damaged. Delete the store and capture again.")
    with refusing(f"{META} in {url}", "Delete the store and capture again"):
        _check(meta)
    return meta


def _check(meta: Mapping[str, Any]) -> None:
    """Refuses numbers that are none, and names of arrays that would lead out of the store."""
    for key in ("n", "rows", "rows_per_part", "tokens"):
        if type(meta[key]) is not int or not (key == "rows_per_part") <= meta[key] < 1 << 48:
            raise ValueError(f"{key} is {meta[key]!r}")
    for key in ("model", "fingerprint", "texts"):
        if not isinstance(meta[key], str):
            raise ValueError(f"{key} is {meta[key]!r}")
    for site, facts in meta["sites"].items():
        if not isinstance(facts["pools"], list) or not facts["pools"]:
            raise ValueError(f"{site} has the poolings {facts['pools']!r}")
        for name in (site, *facts["pools"]):
            if not re.fullmatch(r"(?!\.+$)[\w.-]+", name, re.ASCII):
                raise ValueError(f"an array called {name!r}")
        if type(facts["width"]) is not int or not 0 < facts["width"] <= 1 << 24:
            raise ValueError(f"{site} is {facts['width']!r} wide")
        if facts["dtype"] not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"{site} is of {facts['dtype']!r}")


def check_meta(
    found: Mapping[str, Any], wanted: Mapping[str, Any], url: str | os.PathLike[str]
) -> None:
    """Refuses a store that holds something else than `wanted`.

    Raises:
        InputError: naming the first difference.
    """
    left, right = _flat(wanted), _flat(found)
    for key in left | right:
        # What the store knows beyond the request follows from it.
        if key.partition(".")[0] in wanted and left.get(key) != right.get(key):
            raise InputError(
                f"Expected {key} = {_short(left.get(key))} in {url}, it holds "
                f"{_short(right.get(key))}. Use another folder, or delete this one."
            )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(entry) if isinstance(entry, tuple) else entry
    return flat


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
