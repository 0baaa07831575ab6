"""The memory of the sums, and the blocks of atlas features that keep them within a bound."""

from __future__ import annotations

import re
from collections.abc import Mapping

from atlas_jax.errors import InputError
from atlas_jax.translate.moments import Wanted

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(size: int | str) -> int:
    """A number of bytes from a number, or from a text such as "8GB" or "500 MB".

    Raises:
        InputError: neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", str(size).upper())
    if not found:
        raise InputError(f"Expected a memory size such as 8GB or 500MB, got '{size}'.")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def bytes_per_column(widths: Mapping[str, int], atlas_width: int, wanted: Wanted) -> int:
    """Bytes of the float64 sums that one atlas feature needs."""
    subject = sum(widths.values()) * (wanted.cross + wanted.unit)
    return 8 * (subject + atlas_width * (bool(wanted.gram) + wanted.unit_gram))


def column_blocks(
    atlas_width: int, column_bytes: int, max_memory: int | str | None
) -> list[tuple[int, int]]:
    """Equal blocks of atlas features, each of whose sums take at most `max_memory` bytes.

    The rows are read once for each block.

    Raises:
        InputError: not even one feature fits.
    """
    if max_memory is None or not column_bytes:
        return [(0, atlas_width)]
    room = parse_bytes(max_memory) // column_bytes
    if room < 1:
        raise InputError(
            f"Expected at least {column_bytes} bytes for the sums of one atlas feature, got "
            f"max_memory {max_memory}."
        )
    blocks = -(-atlas_width // room)
    step = -(-atlas_width // blocks)
    return [(a, min(a + step, atlas_width)) for a in range(0, atlas_width, step)]
