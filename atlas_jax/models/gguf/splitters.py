"""How text is cut into words before byte-level BPE, by llama.cpp's name of the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The pattern of cl100k, which Llama 3 took over; n is how many digits stay together.
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{n}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitter:
    """What a byte-level tokenizer does beside its vocabulary.

    Attributes:
        pattern: of the words; None: GPT-2's, which the tokenizers library has built in.
        digits: each digit is a word.
        compose: characters are composed first (NFC).
        whole_words: a word that is a token is not built by merges.
        bos: BOS precedes a text, where the header says nothing of it.
    """

    pattern: str | None = None
    digits: bool = False
    compose: bool = False
    whole_words: bool = False
    bos: bool = False

    def pre_tokenizer(self) -> Any:
        """As the tokenizers library has it."""
        from tokenizers import Regex
        from tokenizers import pre_tokenizers as pre

        level = pre.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)
        if self.pattern is not None:
            return pre.Sequence([pre.Split(Regex(self.pattern), "isolated"), level])
        return pre.Sequence([pre.Digits(individual_digits=True), level]) if self.digits else level


_GPT2, _NEOX, _DIGITS = Splitter(), Splitter(compose=True), Splitter(digits=True)
_LLAMA3 = Splitter(_CL100K.format(n="{1,3}"), whole_words=True, bos=True)
_QWEN2 = Splitter(_CL100K.format(n=""), compose=True)

SPLITTERS: dict[str, Splitter] = {
    "dbrx": Splitter(_CL100K.format(n="{1,3}")),  # OLMo 2, Phi 4
    "deepseek-r1-qwen": _QWEN2,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "mpt": _NEOX,  # has GPT-NeoX's tokenizer, by which llama.cpp's converter knows it
    "olmo": _NEOX,
    "phi-2": _GPT2,
    "qwen2": _QWEN2,
    "refact": _DIGITS,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "tekken": Splitter(_TEKKEN, whole_words=True, bos=True),
}
"""By `tokenizer.ggml.pre`."""

UNNAMED: dict[str, Splitter] = {"gpt2": _GPT2, "gptneox": _NEOX}
"""Of architectures with one tokenizer, whose older files do not name it."""

FIXED: dict[str, Splitter] = {"qwen2": _QWEN2}
"""Of architectures for which transformers cuts words its own way, whatever the files say."""
