"""Documents of a data set on the hub, streamed: nothing but what is read is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from atlas_jax.corpus.documents import Document, from_rows
from atlas_jax.errors import InputError


class HubName(NamedTuple):
    """A data set on the hub: "owner/name", "owner/name@revision", "owner/name:configuration"."""

    path: str
    revision: str | None
    configuration: str | None

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Reads a name; the revision comes before the configuration where both are given."""
        rest, _, configuration = name.partition(":")
        path, _, revision = rest.partition("@")
        return cls(path, revision or None, configuration or None)


def commit(name: str) -> str:
    """The commit that a hub data set's name stands for today.

    Raises:
        InputError: no such data set or revision, no access, no network.
    """
    from huggingface_hub import HfApi

    path, revision, _ = HubName.parse(name)
    try:
        return str(HfApi().dataset_info(path, revision=revision).sha)
    except Exception as error:  # what a client of the network may raise is a long list
        raise _failure(f"the hub data set {name!r}", error) from error


def hub(
    name: str,
    split: str,
    text_column: str | None = None,
    source_column: str | None = None,
    revision: str | None = None,
) -> Iterator[Document]:
    """Yields the documents of a hub data set.

    Args:
        name: "owner/name", "owner/name@revision", "owner/name:configuration".
        split: its split.
        text_column: where it cannot be told.
        source_column: where it cannot be told.
        revision: goes before the one in the name.

    Raises:
        InputError: no such data set, revision, configuration, split or column; no network.
    """
    path, named, configuration = HubName.parse(name)
    rows = _rows(name, path, configuration, split, revision or named)
    yield from from_rows(rows, name, text_column, source_column)


def _rows(
    name: str, path: str, configuration: str | None, split: str, revision: str | None
) -> Iterator[Mapping[str, Any]]:
    try:
        yield from _stream(path, configuration, split, revision)
    except Exception as error:  # data sets' own files, their formats, the network
        raise _failure(f"the split {split!r} of the hub data set {name!r}", error) from error


def _stream(
    path: str, configuration: str | None, split: str, revision: str | None
) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    options: dict[str, Any] = {"split": split, "revision": revision, "streaming": True}
    try:
        return iter(load_dataset(path, configuration, **options))
    except ValueError as error:
        if configuration or not str(error).startswith("Bad split"):
            raise
        # Where one split has a folder, `datasets` does not see those that have a file beside it,
        # as the Pile's `test.jsonl.zst` beside `train/`.
        files = {split: [f"{split}.*", f"{split}-*", f"{split}/**"]}
        try:
            return iter(load_dataset(path, data_files=files, **options))
        except FileNotFoundError:
            raise error from None


def _failure(what: str, error: Exception) -> InputError:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0][:200].rstrip(".") + "."
    if isinstance(error, GatedRepoError):
        reason = "its owner asks for consent: accept the terms on its page, then `hf auth login`."
    elif isinstance(error, RepositoryNotFoundError):
        reason = "there is none of this name, or it is private (then `hf auth login`)."
    elif isinstance(error, RevisionNotFoundError):
        reason = "it has no such revision."
    return InputError(
        f"Expected {what}, got: {reason} Check the name, the split and the network; "
        '"packages" needs no account, and a local file or folder needs no network.'
    )
