"""Where documents come from: the default packages, a hub data set, or local files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.hub import hub
from atlas_jax.corpus.local import SUFFIXES, local
from atlas_jax.corpus.packages import PACKAGE_SOURCES
from atlas_jax.errors import InputError


def documents(
    source: str | Path, *, split: str = "test", text: str | None = None
) -> Iterator[Document]:
    """Yields the raw documents of a source, whole.

    Args:
        source: "packages" is the default text: encyclopedia, speeches, news, quotations and the
            documentation of Python; "packages:news,speeches" a part of it. A path is a .txt,
            .jsonl, .csv or .parquet file, or a folder of them. Anything else is a hub data set,
            "owner/name" or "owner/name:configuration".
        split: split of a hub data set.
        text: column that holds the text, where it cannot be told.

    Raises:
        InputError: unknown or unreadable source, no text column, no network.
    """
    path = Path(source).expanduser()
    name = str(source)
    if name.partition(":")[0] == "packages":
        yield from _packages(name)
    elif path.exists():
        yield from local(path, text)
    elif isinstance(source, Path) or name[:1] in "./~\\" or path.suffix in SUFFIXES:
        raise InputError(f"Expected a file or folder at {name}, there is none: check the path.")
    else:
        yield from hub(name, split, text)


def _packages(name: str) -> Iterator[Document]:
    wanted = [part.strip() for part in name.partition(":")[2].split(",") if part.strip()]
    unknown = [part for part in wanted if part not in PACKAGE_SOURCES]
    if unknown:
        raise InputError(
            f"Expected sources among {', '.join(PACKAGE_SOURCES)}; got {', '.join(unknown)}."
        )
    for part in wanted or PACKAGE_SOURCES:
        yield from PACKAGE_SOURCES[part]()
