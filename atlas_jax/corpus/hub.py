"""Documents of a data set on the hub, streamed: nothing but what is read is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_jax.corpus.documents import Document, from_rows
from atlas_jax.errors import InputError


def hub(name: str, split: str, text: str | None = None) -> Iterator[Document]:
    """Yields the documents of a hub data set.

    Args:
        name: "owner/name", or "owner/name:configuration".
        split: its split.
        text: its text column, where it cannot be told.

    Raises:
        InputError: no such data set, split or configuration; no network; no text column.
    """
    from datasets import load_dataset

    path, _, configuration = name.partition(":")
    try:
        rows = load_dataset(path, configuration or None, split=split, streaming=True)
        yield from from_rows(rows, name, text)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"Expected the split {split!r} of the hub data set {name!r}, got: {reason[0][:200]} "
            "Check the name, the split and the network; "
            '"packages" needs no account, and a local file or folder needs no network.'
        ) from error
