"""Key-value stores: a folder or a URL that TensorStore opens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

# A request on which nothing came for a minute is made again; left alone, it would wait for ever.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", "30")

import tensorstore as ts

from atlas_jax.errors import InputError
from atlas_jax.outside import parse_json

T = TypeVar("T")

# Nothing is cached, and files are mapped: a chunk is read once in a pass over the rows, and either
# would copy it once more. A server that refuses is asked again for about a minute, not for a
# quarter of an hour.
_RETRIES = {"max_retries": 8, "initial_delay": "500ms", "max_delay": "16s"}
_AWAY = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED")
SETTINGS = {
    "cache_pool": {"total_bytes_limit": 0},
    "file_io_mode": {"mode": "memmap"},
    "s3_request_retries": _RETRIES,
    "gcs_request_retries": _RETRIES,
}
# One context, so that every handle on a `memory://` store sees the same bytes.
CONTEXT = ts.Context(SETTINGS)


def kvstore_spec(url: str | os.PathLike[str]) -> dict[str, Any]:
    """The TensorStore specification of a folder or a URL (file, gs, s3, memory), ending in a slash.

    Of an `s3://` URL, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names a server other than
    Amazon's, as for Amazon's own tools.

    Raises:
        InputError: TensorStore knows no such URL.
    """
    text = str(url)
    if "://" not in text:
        return {"driver": "file", "path": f"{Path(text).expanduser().resolve()}/"}
    try:
        spec = ts.KvStore.Spec(text.rstrip("/") + "/").to_json()
    except ValueError as error:
        raise InputError(
            f"Expected a folder or a URL that TensorStore opens (file, gs, s3, memory), got "
            f"'{url}': {first_line(error)}"
        ) from None
    return spec | _s3_settings() if spec["driver"] == "s3" else spec


def _s3_settings() -> dict[str, Any]:
    settings: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        settings |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
        # Left to itself, TensorStore trusts Amazon alone to refuse a second creator of a key.
        settings["use_conditional_write"] = True
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        settings["aws_credentials"] = {"type": "environment"}
    return settings


def open_kvstore(url: str | os.PathLike[str]) -> ts.KvStore:
    """The key-value store at a folder or URL.

    Raises:
        InputError: TensorStore cannot open it.
    """
    spec = kvstore_spec(url)
    return attempt(f"open {url}", lambda: ts.KvStore.open(spec, context=CONTEXT).result())


def folder_of(url: str | os.PathLike[str]) -> Path | None:
    """The folder of the file system that a store lies in; None if it lies elsewhere."""
    spec = kvstore_spec(url)
    return Path(spec["path"]) if spec["driver"] == "file" else None


def within(url: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The specification of a folder inside a store."""
    spec = kvstore_spec(url)
    return {**spec, "path": f"{spec.get('path', '')}{name}/"}


def keys(kv: ts.KvStore, prefix: str) -> list[str]:
    """The keys that begin with a prefix, without it."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    found = kv.list(ts.KvStore.KeyRange(prefix, end), strip_prefix_length=len(prefix)).result()
    return [key.decode() for key in found]


def read_bytes(kv: ts.KvStore, key: str) -> bytes | None:
    """The value of a key; None where there is none."""
    found = kv.read(key).result()
    return None if found.state == "missing" else bytes(found.value)


def read_json(kv: ts.KvStore, key: str) -> Any | None:
    """The JSON value of a key; None where there is none.

    Raises:
        InputError: something that is not JSON.
    """
    found = read_bytes(kv, key)
    try:
        return None if found is None else parse_json(found)
    except ValueError as error:
        raise InputError(
            f"{key} is damaged ({error}). Delete the store and capture again."
        ) from None


def write_json(kv: ts.KvStore, key: str, value: Any) -> None:
    """Writes a key in one step."""
    kv.write(key, json.dumps(value, indent=1).encode()).result()


def create(kv: ts.KvStore, key: str, value: bytes) -> bool:
    """Writes a key that is not there yet; False, and nothing written, where it is.

    Of several that try at the same moment, one succeeds.
    """
    found = kv.read(key).result()
    if found.state != "missing":
        return False
    return bool(kv.write(key, value, if_equal=found.stamp.generation).result().generation)


def attempt(what: str, call: Callable[[], T]) -> T:
    """Calls what touches a store; its failure becomes the user's one line.

    Raises:
        InputError: "Could not <what>: <the reason>".
    """
    try:
        return call()
    except InputError:
        raise
    # The last one is how TensorStore answers where a kind of store cannot do something.
    except (OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"Could not {what}: {reason(error)}") from None


def is_away(error: Exception) -> bool:
    """Whether a store did not answer; else it is damaged, and what it holds is captured again."""
    return any(word in str(error) for word in _AWAY)


def check_reached(what: str, error: Exception) -> None:
    """Refuses an error that says nothing of what a store holds.

    Raises:
        InputError: it did not answer.
    """
    if is_away(error):
        raise InputError(f"Could not {what}: {reason(error)} Try again.") from None


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    text = str(error)
    if "No space left" in text or "quota" in text:
        return "no space left on the disk. Free some."
    return first_line(error).rstrip(".") + "."


def first_line(error: Exception) -> str:
    """What an exception says, cut to a line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
