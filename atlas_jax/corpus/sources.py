"""Where documents come from: the default packages, a hub data set, or local files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.hub import hub
from atlas_jax.corpus.local import is_known, local
from atlas_jax.corpus.packages import PACKAGE_SOURCES
from atlas_jax.errors import InputError


def kind_of(source: str | Path) -> str:
    """What a source is: "packages", "local" or "hub".

    Raises:
        InputError: it reads as a path, and leads nowhere.
    """
    path, name = Path(source).expanduser(), str(source)
    if not name.strip():
        raise InputError('Expected a source, got an empty name: "packages" is the default text.')
    if name.partition(":")[0] == "packages":
        return "packages"
    if path.exists():
        return "local"
    if isinstance(source, Path) or name[:1] in "./~\\" or is_known(path):
        raise InputError(f"Expected a file or folder at {name}, there is none: check the path.")
    return "hub"


def documents(
    source: str | Path,
    *,
    split: str = "test",
    text_column: str | None = None,
    source_column: str | None = None,
    revision: str | None = None,
) -> Iterator[Document]:
    """Yields the raw documents of a source, whole.

    Args:
        source: "packages" is the default text: encyclopedia, speeches, news, quotations and the
            documentation of Python; "packages:news,speeches" a part of it. A path is a .txt,
            .jsonl, .csv or .parquet file, or a folder of them; all but the last may be compressed
            (.gz, .zst). Anything else is a hub data set: "owner/name", "owner/name@revision" or
            "owner/name:configuration".
        split: split of a hub data set.
        text_column: column that holds the text, where it cannot be told.
        source_column: column that holds the source, where it cannot be told; dots lead into
            nested columns (`meta.pile_set_name`).
        revision: commit of a hub data set; goes before the one in its name.

    Raises:
        InputError: unknown or unreadable source, no such column, no network.
    """
    kind, name = kind_of(source), str(source)
    if kind == "packages":
        yield from _packages(name)
    elif kind == "local":
        yield from local(Path(source).expanduser(), text_column, source_column)
    else:
        yield from hub(name, split, text_column, source_column, revision)


def _packages(name: str) -> Iterator[Document]:
    wanted = [part.strip() for part in name.partition(":")[2].split(",") if part.strip()]
    unknown = [part for part in wanted if part not in PACKAGE_SOURCES]
    if unknown:
        raise InputError(
            f"Expected sources among {', '.join(PACKAGE_SOURCES)}; got {', '.join(unknown)}."
        )
    for part in wanted or PACKAGE_SOURCES:
        yield from PACKAGE_SOURCES[part]()
