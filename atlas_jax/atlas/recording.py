"""Token-level activations of fixed contexts, recorded in a folder and opened again."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from atlas_jax.atlas.token_activations import (
    ModelActivations,
    Reader,
    TokenActivations,
    cut_contexts,
    fingerprint_of,
)
from atlas_jax.errors import InputError
from atlas_jax.files import read_json, sealed, write_json, writing
from atlas_jax.outside import refusing
from atlas_jax.progress import Bar, track

DTYPES = ("float16", "float32")
_AGAIN = "delete the folder and record again"


def collect(
    model: Reader,
    texts: Iterable[str],
    site: str,
    folder: Path,
    n_tokens: int,
    length: int = 64,
    batch: int = 32,
    seed: int = 0,
    dtype: str = "float16",
) -> TokenActivations:
    """Records a site on texts cut into contexts, on disk; resumes where it stopped.

    Args:
        model: whose activations.
        texts: whole documents.
        site: which activations.
        folder: where to; one folder for one combination of these arguments.
        n_tokens: how many token activations to record.
        length: tokens of a context; the first one, an attention sink, is left out.
        batch: contexts run together.
        seed: of the shuffle.
        dtype: `float16`, or `float32` for activations beyond 65,504.

    Raises:
        InputError: the folder holds another model's or site's activations, values beyond the
            dtype, or another dtype than the two.
    """
    if dtype not in DTYPES:
        raise InputError(f"Expected dtype {' or '.join(DTYPES)}, got '{dtype}'.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "fingerprint": model.fingerprint,
        "site": site,
        "n_tokens": n_tokens,
        "length": length,
        "seed": seed,
        "dtype": dtype,
    }
    state, width = folder / "state.json", model.width(site)
    done, blocks = 0, []
    if state.exists():
        found = {"dtype": "float16", "done": 0} | read_json(state, "record of a recording", _AGAIN)
        done, blocks, known = found.pop("done"), found.pop("blocks", []), found.pop("tokens", None)
        if found != wanted:
            key = next(k for k in wanted if found.get(k) != wanted[k])
            raise InputError(
                f"Expected {key}={wanted[key]!r} in {folder}, it holds {found.get(key)!r}. Use "
                "another folder or delete it."
            )
        tokens = _tokens(folder, known)
        if type(done) is not int or not 0 <= done <= len(tokens):
            raise InputError(f"The recording in {folder} is damaged ({done!r} done): {_AGAIN}.")
    else:
        tokens = cut_contexts(model.tokenizer, texts, n_tokens, length, seed)
        with writing(folder / "tokens.npy") as draft, draft.open("wb") as file:
            np.save(file, tokens)
    rows = length - 1
    shape = len(tokens) * rows, width
    if not done:
        _make_room(folder / "acts.npy", np.dtype(dtype), shape)
    acts = _acts(folder, dtype, shape, "r+")
    _check_blocks(acts, blocks, rows, folder)
    named = wanted | {"tokens": fingerprint_of(tokens)}
    source, block = ModelActivations(model, site, tokens, batch), 64 * batch
    with Bar(f"recording {site}", len(tokens)) as bar:
        bar.advance(done)
        for start in range(done, len(tokens), block):
            part = np.arange(start, min(start + block, len(tokens)))
            values = source.read(part)
            if not np.abs(values).max() < np.finfo(dtype).max:
                raise InputError(
                    f"{site} has values beyond {dtype}: record it as float32, or choose another "
                    "site."
                )
            place = slice(start * rows, (start + len(part)) * rows)
            acts[place] = values
            acts.flush()
            blocks = [*blocks, [start + len(part), zlib.crc32(acts[place].data)]]
            write_json(state, sealed(named | {"done": blocks[-1][0], "blocks": blocks}))
            bar.advance(len(part))
    return TokenActivations(acts, tokens)


def open_activations(folder: str | os.PathLike[str]) -> TokenActivations:
    """Opens recorded activations; of an unfinished recording, the contexts done so far.

    Contexts are recorded in random order, so those done are a fair sample of all.

    Raises:
        InputError: no recording there, or one that has not got anywhere yet.
    """
    folder = Path(folder)
    remedy = "`atlas-jax atlas train` records them"
    if not (folder / "state.json").is_file():
        raise InputError(f"Expected recorded activations in {folder}, found none: {remedy}.")
    with refusing(f"recorded activations in {folder}", remedy):
        state = read_json(folder / "state.json", "record of a recording", _AGAIN)
        done, tokens = int(state["done"]), _tokens(folder, state.get("tokens"))
        rows = tokens.shape[1] - 1
        acts = _acts(folder, state.get("dtype", "float16"), (len(tokens) * rows, None), "r")
        if not 0 < done <= len(tokens) or not acts.size:
            raise ValueError(f"{done} contexts of {tokens.shape} are done")
        _check_blocks(acts, state.get("blocks", []), rows, folder)
    return TokenActivations(acts[: done * rows], tokens[:done])


def _make_room(path: Path, dtype: np.dtype, shape: tuple[int, int]) -> None:
    """A file of zeros: on a full disk, writing into a mapped hole would kill the process."""
    try:
        with path.open("wb") as file:
            header = np.lib.format.header_data_from_array_1_0(np.empty((0, shape[1]), dtype))
            np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
            file.flush()
            size = file.tell() + shape[0] * shape[1] * dtype.itemsize
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        raise InputError(f"Could not write {path}: {error.strerror}. Free some space.") from None


def _acts(folder: Path, dtype: str, shape: tuple[int, int | None], mode: Any) -> np.memmap:
    """The mapped activations; of another dtype or shape they are damaged."""
    acts = _load(folder / "acts.npy", mode)
    right = dtype in DTYPES and acts.dtype == np.dtype(dtype)
    right = right and acts.ndim == 2 and acts.flags.c_contiguous
    if not right or acts.shape[0] != shape[0] or shape[1] not in (None, acts.shape[1]):
        raise InputError(f"{folder / 'acts.npy'} is damaged (dtype or shape): {_AGAIN}.")
    return acts


def _check_blocks(acts: np.ndarray, blocks: list[list[int]], rows: int, folder: Path) -> None:
    """Compares what is recorded with its checksums, of which an older recording has none."""
    start = 0
    for stop, known in track(blocks, "checking the recording") if blocks else ():
        if zlib.crc32(acts[start * rows : stop * rows].data) != known:
            raise InputError(
                f"{folder / 'acts.npy'} is damaged (contexts {start} to {stop - 1}): {_AGAIN}."
            )
        start = stop


def _load(path: Path, mode: Any = "r") -> np.memmap:
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy reads the header as Python, and fails as Python does
        raise InputError(f"{path} is damaged ({type(error).__name__}): {_AGAIN}.") from None


def _tokens(folder: Path, known: str | None) -> Int32[np.ndarray, "contexts length"]:
    tokens = np.array(_load(folder / "tokens.npy"))
    right = tokens.ndim == 2 and tokens.dtype == np.int32
    if not right or known not in (None, fingerprint_of(tokens)):
        raise InputError(f"{folder / 'tokens.npy'} is damaged: {_AGAIN}.")
    return tokens
