"""Valid bytes and values made wrong in the ways that matter, and what a reader may do with them."""

from __future__ import annotations

import copy
import os
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from atlas_jax.errors import InputError

EXAMPLES = int(os.environ.get("ATLAS_JAX_FUZZ", "30"))
"""Cases of each parser; a larger number also draws new ones in every run."""

cases = settings(
    max_examples=EXAMPLES,
    derandomize="ATLAS_JAX_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

HUGE = (0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NAMES = (
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "..",
    ".",
    "",
    "a\0b",
    "\x1b[31mred",
    "line\nbreak",
    "__proto__",
    "x" * 5000,
    "\ud800",
    "‮txt.exe",
)
_WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e308, 5e-324, 10**30, -(2**63), 2**40, 2**31),
    *(float("nan"), float("inf"), -float("inf")),
    *([], {}, [[]], [None], {"a": {}}, [1, 2, 3], ["a"], {"": ""}, [{}], [[1], [2]]),
    *NAMES,
)
wrong = st.sampled_from(_WRONG).map(copy.deepcopy)


@st.composite
def spoiled(draw: st.DrawFn, valid: bytes, most: int = 4) -> bytes:
    """Bytes flipped, cut, inserted, left out, doubled, and lengths made huge."""
    found = bytearray(valid)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(("flip", "flip", "put", "cut", "in", "out", "twice", "text")))
        length = draw(st.integers(1, 16))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "put":
            size = draw(st.sampled_from(("<I", "<Q")))
            value = draw(st.sampled_from(HUGE)) & (0xFFFFFFFF if size == "<I" else 2**64 - 1)
            packed = struct.pack(size, value)
            at -= at % (4 if draw(st.booleans()) else 1)
            found[at : at + len(packed)] = packed
        elif kind == "cut":
            del found[at:]
        elif kind == "in":
            found[at:at] = draw(st.binary(max_size=16))
        elif kind == "out":
            del found[at : at + length]
        elif kind == "twice":
            found[at:at] = found[at : at + length]
        elif kind == "text":
            found[at:at] = draw(st.sampled_from(NAMES)).encode("utf-8", "surrogatepass")[:64]
    return bytes(found)


@st.composite
def misled(draw: st.DrawFn, valid: Any, most: int = 3) -> Any:
    """A value as of JSON, of which some places hold something else, nothing, or more."""
    holder = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(holder))
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(("wrong", "wrong", "wrong", "out", "more", "name", "deep")))
        value = inside[key]
        if kind == "out" and inside is not holder:
            del inside[key]
        elif kind == "more" and isinstance(value, dict):
            value[draw(st.sampled_from(NAMES))] = draw(wrong)
        elif kind == "name" and isinstance(inside, dict):
            inside[draw(st.sampled_from(NAMES))] = inside.pop(key)
        elif kind == "deep":
            for _ in range(draw(st.integers(1, 40))):
                value = [value] if draw(st.booleans()) else {"a": value}
            inside[key] = value
        else:
            inside[key] = draw(wrong)
    return holder[0]


def _places(value: Any) -> Any:
    """Each (container, key) in a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def refused(read: Callable[[], Any]) -> str | None:
    """The one line in which something is refused; None where it is read. All else fails."""
    try:
        read()
    except InputError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < 4000, message
        return message
    return None
