"""A model's tokenizer, from its checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.outside import refusing


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of transformers in a folder; code that the folder brings is never run.

    Raises:
        InputError: no tokenizer files there, or damaged ones.
    """
    from transformers import AutoTokenizer

    # Left to its default, transformers asks on the terminal whether to run such code.
    with refusing(f"the tokenizer files in {folder}", "Download them again"):
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )


_UNKNOWN = "\ufffd"
_SHARED = 8
"""Tokens that may share characters: those of an emoji's bytes."""


class Tokenizer:
    """Text to token ids and back, with the special tokens the model was trained on.

    Args:
        folder: a checkpoint folder with tokenizer files.

    Raises:
        InputError: no tokenizer there.
    """

    def __init__(self, folder: Path) -> None:
        self.inner: Any = read_tokenizer(folder)
        self.bos_id: int | None = self.inner.bos_token_id
        self.eos_id: int | None = self.inner.eos_token_id
        self.pad_id: int = next(
            i for i in (self.inner.pad_token_id, self.eos_id, 0) if i is not None
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, with BOS where the model has one.

        Raises:
            InputError: a text that UTF-8 cannot hold.
        """
        return self.inner(check_utf8(texts), verbose=False)["input_ids"]

    def chat(self, messages: Sequence[Mapping[str, str]], reply: bool = True) -> list[int]:
        """Token ids of a conversation, by the template that comes with the tokenizer.

        Args:
            messages: turns, each with `role` (`system`, `user` or `assistant`) and `content`.
            reply: end with what opens the assistant's next turn.

        Raises:
            InputError: the tokenizer has no chat template, or its template refuses the messages.
        """
        if not self.inner.chat_template:
            raise InputError(
                "Expected a tokenizer with a chat template, this one has none. Is this a base "
                "model? Pass plain text instead."
            )
        try:
            text = self.inner.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=reply
            )
        except Exception as error:  # templates raise what they like
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"The chat template refuses these messages: {reason}") from None
        check_utf8([text])
        # The template writes the special tokens itself.
        return self.inner(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int] | np.ndarray) -> str:
        """The text of some token ids, without special tokens."""
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def tokens(self, ids: list[int] | np.ndarray) -> list[str]:
        """Each token's own text, with its leading space; of a part of a character, U+FFFD."""
        return [self.inner.decode([int(i)]) for i in ids]

    def pieces(self, ids: list[int] | np.ndarray) -> list[str]:
        """The tokens of one text, in whole characters.

        Tokens that share a character (the bytes of an emoji) give their text to the last of them,
        which alone has seen all of it; the others are "".
        """
        found = self.tokens(ids)
        start = 0
        while start < len(found):
            stop = start + 1
            if _UNKNOWN in found[start]:
                for end in range(start + 2, min(start + _SHARED, len(found)) + 1):
                    run = [int(i) for i in ids[start:end]]
                    whole = self.inner.decode(run)
                    if _UNKNOWN not in whole or self._alone(whole) == run:  # a text may hold one
                        found[start:end] = [""] * (end - start - 1) + [whole]
                        stop = end
                        break
            start = stop
        return found

    def _alone(self, text: str) -> list[int]:
        return self.inner(text, add_special_tokens=False)["input_ids"]

    def pad(
        self, rows: list[list[int]], length: int, left: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pads token lists to (B, length) int32 and gives the mask of real tokens."""
        tokens = np.full((len(rows), length), self.pad_id, np.int32)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            where = slice(length - len(row), length) if left else slice(0, len(row))
            tokens[i, where], mask[i, where] = row, True
        return tokens, mask


def check_utf8(texts: Sequence[str]) -> list[str]:
    """The texts, none of which holds a lone surrogate (JSON may, in an escape).

    Raises:
        InputError: naming the text.
    """
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Expected texts that UTF-8 can hold, got {text[error.start]!r} in text {i}: pass "
                "text.encode('utf-8', 'replace').decode('utf-8')."
            ) from None
    return list(texts)
