"""Token-level activations of fixed contexts on disk: what a sparse autoencoder is trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Array, Float16, Int32

from atlas_jax.errors import InputError
from atlas_jax.progress import Bar


class Reader(Protocol):
    """What is asked of a model here (`LanguageModel` has it)."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Encoder: ...

    def width(self, site: str) -> int: ...

    def read(
        self, tokens: np.ndarray, mask: np.ndarray, sites: tuple[str, ...]
    ) -> dict[str, Array]: ...


class Encoder(Protocol):
    """The tokenizer's one method that is needed."""

    @property
    def bos_id(self) -> int | None: ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


@dataclass(frozen=True)
class TokenActivations:
    """Activations of every token but the first of each context.

    Attributes:
        acts: (contexts * (length - 1), d), on disk; row c * (length - 1) + t - 1 is token t of
            context c.
        tokens: (contexts, length) token ids.
    """

    acts: Float16[np.ndarray, "rows d"]
    tokens: Int32[np.ndarray, "contexts length"]


def cut_contexts(
    encoder: Encoder, texts: Iterable[str], n_tokens: int, length: int, seed: int
) -> Int32[np.ndarray, "contexts length"]:
    """Joins shuffled texts, cuts them into equal contexts and keeps enough for `n_tokens`.

    Short texts share a context, separated by a blank line, so that none is lost.

    Raises:
        InputError: all texts together are shorter than one context.
    """
    head = [] if encoder.bos_id is None else [encoder.bos_id]
    body = length - len(head)
    order = np.random.default_rng(seed)
    shuffled = list(texts)
    order.shuffle(shuffled)
    stream = np.concatenate(
        [
            np.array(ids[len(head) :], np.int32)
            for start in range(0, len(shuffled), 256)
            for ids in encoder.encode_batch([t + "\n\n" for t in shuffled[start : start + 256]])
        ]
        or [np.zeros(0, np.int32)]
    )
    count = len(stream) // body
    if not count:
        raise InputError(f"Expected texts of at least {length} tokens in all, got {len(stream)}.")
    rows = stream[: count * body].reshape(count, body)
    rows = rows[order.permutation(count)[: -(-n_tokens // (length - 1))]]
    return np.concatenate([np.tile(np.array(head, np.int32), (len(rows), 1)), rows], axis=1)


def collect(
    model: Reader,
    texts: Iterable[str],
    site: str,
    folder: Path,
    n_tokens: int,
    length: int = 64,
    batch: int = 32,
    seed: int = 0,
) -> TokenActivations:
    """Records a site on texts cut into contexts, as float16 on disk; resumes where it stopped.

    Args:
        model: whose activations.
        texts: whole documents.
        site: which activations.
        folder: where to; one folder for one combination of these arguments.
        n_tokens: how many token activations to record.
        length: tokens of a context; the first one, an attention sink, is left out.
        batch: contexts run together.
        seed: of the shuffle.

    Raises:
        InputError: the folder holds another model's or site's activations, or values beyond
            float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "fingerprint": model.fingerprint,
        "site": site,
        "n_tokens": n_tokens,
        "length": length,
        "seed": seed,
    }
    state, width = folder / "state.json", model.width(site)
    done = 0
    if state.exists():
        found = json.loads(state.read_text())
        done = found.pop("done")
        if found != wanted:
            key = next(k for k in wanted if found.get(k) != wanted[k])
            raise InputError(
                f"Expected {key}={wanted[key]!r} in {folder}, it holds {found.get(key)!r}. Use "
                "another folder or delete it."
            )
        tokens = np.load(folder / "tokens.npy")
    else:
        tokens = cut_contexts(model.tokenizer, texts, n_tokens, length, seed)
        np.save(folder / "tokens.npy", tokens)
    rows = length - 1
    acts = np.lib.format.open_memmap(
        folder / "acts.npy",
        mode="r+" if done else "w+",
        dtype=np.float16,
        shape=(len(tokens) * rows, width),
    )
    with Bar(f"recording {site}", len(tokens)) as bar:
        bar.advance(done)
        for start in range(done, len(tokens), batch):
            part = tokens[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), 0)])
            out = model.read(filled, np.ones(filled.shape, bool), (site,))[site]
            values = np.asarray(out, np.float32)[: len(part), 1:]
            if not np.abs(values).max() < np.finfo(np.float16).max:
                raise InputError(f"{site} has values beyond float16; choose another site.")
            acts[start * rows : (start + len(part)) * rows] = values.reshape(-1, width)
            if (start // batch) % 64 == 63 or start + batch >= len(tokens):
                acts.flush()
                _write(state, wanted | {"done": start + len(part)})
            bar.advance(len(part))
    return TokenActivations(acts, tokens)


def _write(path: Path, value: dict) -> None:
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(value))
    os.replace(draft, path)


def open_activations(folder: str | os.PathLike[str]) -> TokenActivations:
    """Opens recorded activations; of an unfinished recording, the contexts done so far.

    Contexts are recorded in random order, so those done are a fair sample of all.

    Raises:
        InputError: no recording there, or one that has not got anywhere yet.
    """
    folder = Path(folder)
    if not (folder / "state.json").exists():
        raise InputError(f"Expected recorded activations in {folder}, found none.")
    done = int(json.loads((folder / "state.json").read_text())["done"])
    tokens = np.load(folder / "tokens.npy")[:done]
    acts = np.load(folder / "acts.npy", mmap_mode="r")
    return TokenActivations(acts[: done * (tokens.shape[1] - 1)], tokens)
