"""The activations of every token of every text."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Int32, Int64, Shaped

from atlas_jax.activations.kvstore import CONTEXT, check_reached, first_line, within
from atlas_jax.activations.layout import IDS, OFFSETS
from atlas_jax.activations.site_array import SiteArray, size_text
from atlas_jax.errors import InputError


class TokenArray(SiteArray):
    """A site's activations, a row for each token: text i owns rows offsets[i] to offsets[i + 1].

    The first token of a text is there too; it is an attention sink, which poolings leave out. A
    token's position in its text is its row less the text's offset.
    """

    def __repr__(self) -> str:
        n, width = self.shape
        size = size_text(n * width * self.dtype.itemsize)
        return (
            f"TokenArray({self.site!r}, {self.n_texts:,} texts, {n:,} x {width:,} {self.dtype}, "
            f"{size})"
        )

    @cached_property
    def offsets(self) -> Int64[np.ndarray, " n_plus_1"]:
        """Where each text begins, and the end of the last."""
        return _read_whole(self._url, OFFSETS)

    @cached_property
    def ids(self) -> Int32[np.ndarray, " tokens"]:
        """The token id of each row."""
        return _read_whole(self._url, IDS)

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return int(self.meta["n"])

    def text(self, index: int) -> Shaped[np.ndarray, "t d"]:
        """The activations of one text, (T, d)."""
        if not -self.n_texts <= index < self.n_texts:
            raise IndexError(f"text {index} of {self.n_texts}")
        index %= self.n_texts
        return self[int(self.offsets[index]) : int(self.offsets[index + 1])]


def _read_whole(url: str | os.PathLike[str], name: str) -> np.ndarray:
    """An array of token ids or offsets.

    Raises:
        InputError: damaged or missing.
    """
    spec: Any = {"driver": "zarr3", "kvstore": within(url, name)}
    why = "it is missing"
    try:
        array = ts.open(spec, open=True, read=True, context=CONTEXT).result()
        values = np.asarray(array.read().result())
        if not len(values) or values.min() >= 0:
            return values
    except (ValueError, OSError) as error:
        check_reached(f"read {name} in {url}", error)
        why = first_line(error)
    raise InputError(
        f"{name} in {url} cannot be read ({why}). Delete ledger/{name} there and run the same "
        "capture again: it is written anew."
    )
