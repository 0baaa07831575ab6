"""The prompt that a verbalizer in training reads its vectors in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from atlas_jax.errors import InputError
from atlas_jax.models.tokenizer import Tokenizer

TEMPLATE = 'What "{injection_char}" is about, in a few words:'
TAGS = "<explanation>", "</explanation>"
MARKERS = (
    "㈎",
    "<empty_output>",
    "<unused7>",
    "<|reserved_special_token_7|>",
    "<|fim_pad|>",
    "~",
)
"""Signs that stand for the vector: the first that is one token is taken."""
_TURN = "{{ messages[0]['content'] }}"


class Prompt(NamedTuple):
    """Token ids of the prompt, with the vector's place.

    Attributes:
        ids: token ids.
        position: of the marker.
        marker: what it is written as.
    """

    ids: list[int]
    position: int
    marker: str


def plain_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer, whose chat template is the user's turn itself: short prompts."""
    tokenizer = Tokenizer(folder)
    opening = tokenizer.encode_batch([""])[0]
    begins = tokenizer.bos_id is not None and opening[:1] == [tokenizer.bos_id]
    tokenizer.inner.chat_template = ("{{ bos_token }}" if begins else "") + _TURN
    return tokenizer


def make_prompt(tokenizer: Tokenizer) -> Prompt:
    """The prompt, with the first marker that this tokenizer knows as one token.

    Raises:
        InputError: it knows none.
    """
    for marker in MARKERS:
        id_ = tokenizer.inner.convert_tokens_to_ids(marker)
        if id_ is None or id_ == tokenizer.inner.unk_token_id:
            continue
        content = TEMPLATE.replace("{injection_char}", marker)
        ids = [int(i) for i in tokenizer.chat([{"role": "user", "content": content}])]
        if ids.count(id_) == 1 and ids.index(id_) < len(ids) - 1:
            return Prompt(ids, ids.index(id_), marker)
    raise InputError(
        f"Expected a tokenizer with one of the markers {' '.join(MARKERS)} as a token of its own, "
        "this one has none."
    )


def answer_tokens(
    tokenizer: Tokenizer, answers: Sequence[str], longest: int
) -> tuple[Int32[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
    """Tokens of the tagged answers and which of them are real; long answers lose their last words.

    Raises:
        InputError: `longest` does not even hold one word.
    """
    rows = []
    for answer in answers:
        words = answer.split(", ")
        while True:
            text = TAGS[0] + ", ".join(words) + TAGS[1]
            ids = tokenizer.inner(text, add_special_tokens=False)["input_ids"]
            if len(ids) <= longest or len(words) == 1:
                break
            words.pop()
        rows.append(ids)
    length = max(map(len, rows))
    if length > longest:
        raise InputError(f"Expected answers of at most {longest} tokens, got one of {length}.")
    return tokenizer.pad(rows, length)
