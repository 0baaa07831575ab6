"""Results as pandas data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from atlas_jax.errors import InputError


def to_pandas(result: Any) -> Any:
    """A `DataFrame` of a result, a row for each method, hit or entry.

    Args:
        result: what `evaluate_translation`, `evaluate_retrieval` and `evaluate_steering` return
            (anything with `rows()`), hits of `identify` (a row for each of their texts), or rows
            that are mappings.

    Raises:
        InputError: something that has no rows, or no pandas.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("Expected pandas to be installed: pip install pandas.") from None
    found = result.rows() if hasattr(result, "rows") else result
    if isinstance(found, Mapping | str) or not isinstance(found, Iterable):
        raise InputError(
            f"Expected a report, hits or rows, got {type(result).__name__}: pass what has rows()."
        )
    return pandas.DataFrame([row for entry in found for row in _flat(entry)])


def _flat(entry: Any) -> list[dict[str, Any]]:
    if is_dataclass(entry) and not isinstance(entry, type):
        whole = asdict(entry)
        samples = whole.pop("samples", None)
        return [whole | sample for sample in samples] if samples else [whole]
    if isinstance(entry, Mapping):
        return [dict(entry)]
    raise InputError(f"Expected rows that are mappings, got {type(entry).__name__}.")
