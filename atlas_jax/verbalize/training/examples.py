"""Examples that a verbalizer learns from: a model's state at a token, and the words for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.progress import Bar
from atlas_jax.verbalize.pairs import encode, text_key
from atlas_jax.verbalize.reading import ModelSide
from atlas_jax.verbalize.training.words import WordTable

_BLOCK = 128
_HELD = 16
_OUTLIER = 10.0


@dataclass(frozen=True)
class Drawing:
    """Where states are read.

    Attributes:
        words: that characterise the text up to there.
        per_text: tokens drawn from a text, at most; each closes a word.
        min_left: tokens to the left of them, at least.
        max_tokens: longer texts are cut.
        least: texts that must use a word.
        most: share of the texts that may.
        seed: of the draw.
    """

    words: int = 5
    per_text: int = 4
    min_left: int = 32
    max_tokens: int = 128
    least: int = 4
    most: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """States and their words.

    Attributes:
        rows: states, (n, d).
        answers: what is to be said of each.
        held: of documents that training does not see.
    """

    rows: Float32[np.ndarray, "n d"]
    answers: list[str]
    held: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, held: bool) -> Examples:
        """Those that training sees, or the others."""
        kept = np.flatnonzero(self.held == held)
        return Examples(self.rows[kept], [self.answers[i] for i in kept], self.held[kept])


def record_examples(
    model: Any, site: str, texts: Any, folder: Path, drawing: Drawing, table: WordTable
) -> Examples:
    """Reads a model's states at drawn tokens of some texts.

    A block of texts is a file; those that are there are not read again.

    Args:
        model: a `LanguageModel`.
        site: of it.
        texts: `Texts`, whose documents are held out as wholes, or a list.
        folder: for the files.
        drawing: where states are read.
        table: of words.

    Raises:
        InputError: files of other examples, or texts that are too short.
    """
    side = ModelSide(model, site)
    documents = getattr(texts, "documents", None)
    plan = json.dumps(
        {
            "side": side.about(),
            "drawing": asdict(drawing),
            "words": table.texts,
            "texts": str(getattr(texts, "hash", "")) or text_key(*map(str, texts)),
        },
        sort_keys=True,
    )
    rows, answers, held = [], [], []
    with Bar("reading states", len(texts)) as bar:
        for start in range(0, len(texts), _BLOCK):
            stop = min(start + _BLOCK, len(texts))
            path = folder / f"{start:07}.safetensors"
            if not path.exists():
                names = documents[start:stop] if documents is not None else []
                _record(side, texts[start:stop], names, path, drawing, table, plan)
            some, words, apart = _load(path, plan)
            rows.append(some)
            answers += words
            held.append(apart)
            bar.advance(stop - start)
    if not answers:
        raise InputError(
            f"Expected texts with more than {drawing.min_left} tokens and with words that some "
            "others use, found none: give longer ones, or a smaller min_left."
        )
    found = Examples(np.concatenate(rows), answers, np.concatenate(held))
    norms = np.linalg.norm(found.rows.astype(np.float64), axis=1)
    kept = np.flatnonzero(norms <= _OUTLIER * np.median(norms))
    return Examples(found.rows[kept], [found.answers[i] for i in kept], found.held[kept])


def _record(
    side: ModelSide,
    texts: Sequence[str],
    names: Sequence[str],
    path: Path,
    drawing: Drawing,
    table: WordTable,
    plan: str,
) -> None:
    kept, at, answers, held = [], [], [], []
    for i, tokens in enumerate(encode(side.tokenizer, list(texts), drawing.max_tokens)):
        if tokens is None:
            continue
        text = texts[i]
        key = text_key(text)
        places = word_ends(text, tokens.ends, drawing.min_left)
        places = places[~tokens.special[places]]
        rng = np.random.default_rng([drawing.seed, key])
        places = np.sort(rng.permutation(places)[: drawing.per_text])
        said = [table.characteristic(text[: tokens.ends[p]], drawing.words) for p in places]
        good = [j for j, words in enumerate(said) if words]
        if not good:
            continue
        name = names[i] if len(names) else ""
        kept.append(tokens)
        at.append(places[good])
        answers += [", ".join(said[j]) for j in good]
        held += [text_key(name or text) % _HELD == 0] * len(good)
    rows = np.zeros((0, side.width), np.float32)
    if kept:
        rows = side.rows(list(range(len(kept))), kept, at)
    tensors = {"rows": rows, "held": np.array(held, np.uint8)}
    write_tensors(path, tensors, {"plan": plan, "answers": json.dumps(answers)})


def word_ends(text: str, ends: Int[np.ndarray, " t"], min_left: int) -> Int[np.ndarray, " n"]:
    """Tokens from `min_left` on that end where a word or a sign ends."""
    inside = [
        0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum() for end in ends
    ]
    places = np.flatnonzero(~np.array(inside, bool) & (np.asarray(ends) > 0))
    return places[places >= min_left]


def _load(path: Path, plan: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    notes, tensors = read_tensors(
        path, "file of examples", "delete it", header="answers", needs=("rows", "held")
    )
    if notes.get("plan") != plan:
        raise InputError(
            f"Expected examples of this model, these texts and settings in {path.parent}, found "
            "others: use another folder."
        )
    return tensors["rows"], notes["answers"], tensors["held"].astype(bool)
