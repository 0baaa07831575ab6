"""The tokenizer that a GGUF header describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.models.gguf.header import Header
from atlas_jax.models.gguf.splitters import FIXED, SPLITTERS, UNNAMED, Splitter
from atlas_jax.progress import track

_KNOWN = {
    *("model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges"),
    *("add_bos_token", "add_eos_token", "add_space_prefix"),
}
_MUST_BE_OFF = {"add_sep_token", "remove_extra_whitespaces"}
_CONTROL, _USER_DEFINED = 3, 4
_LONGEST = 4096
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# What llama.cpp takes where a SentencePiece file says nothing.
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unk": 0}
# Phi 3's tokens swallow the blanks behind them, all but these.
_PHI3_PLAIN = {"<unk>", "<s>", "<|endoftext|>"}


def build_tokenizer(header: Header) -> Any:
    """A `tokenizers.Tokenizer`.

    Raises:
        InputError: a kind of tokenizer, a way of splitting words or an option that is not known.
    """
    from tokenizers import AddedToken

    prefix = "tokenizer.ggml."
    for name, value in header.fields.items():
        key = name.removeprefix(prefix)
        harmless = key in _KNOWN or key.endswith(("_token_id", "_token_ids"))
        if name.startswith(prefix) and not (harmless or (key in _MUST_BE_OFF and not value)):
            raise InputError(
                f"The tokenizer of {header.path} has an option this reader does not know: "
                f"{name}={str(value)[:20]}. Use another file."
            )
    kind = header.tokenizer("model")
    if kind not in ("gpt2", "llama"):
        raise InputError(
            f"Expected a tokenizer of model gpt2 (byte-level BPE) or llama (SentencePiece) in "
            f"{header.path}, found '{kind}'. Use another file."
        )
    tokens = header.tokenizer("tokens", [])
    kinds = header.tokenizer("token_type", [1] * len(tokens))
    own = header.tokenizer("merges" if kind == "gpt2" else "scores", [])
    if any(not isinstance(token, str) or len(token) > _LONGEST for token in tokens):
        raise InputError(
            f"Expected tokens of at most {_LONGEST} characters in {header.path}, got others. "
            "Download it again."
        )
    rows = header.shape("token_embd.weight")[0]
    whole = own and len(kinds) == len(tokens) and (kind == "gpt2" or len(own) == len(tokens))
    if not whole or not 0 < len(tokens) <= rows:
        raise InputError(
            f"Expected up to {rows} tokens with their types and merges or scores in {header.path}, "
            f"found {len(tokens)}, {len(kinds)} and {len(own)}. Download it again."
        )
    tokenizer = _byte_level(header) if kind == "gpt2" else _sentencepiece(header)
    swallows = kind == "llama" and header.architecture == "phi3"
    added = {
        which: [
            AddedToken(
                token,
                special=which == _CONTROL,
                normalized=False,
                rstrip=swallows and token not in _PHI3_PLAIN,
            )
            for token, k in zip(tokens, kinds, strict=True)
            if k == which
        ]
        for which in (_CONTROL, _USER_DEFINED)
    }
    tokenizer.add_special_tokens(added[_CONTROL])
    tokenizer.add_tokens(added[_USER_DEFINED])
    _add_ends(tokenizer, header)
    return tokenizer


def tokenizer_settings(header: Header) -> dict[str, Any]:
    """What goes into `tokenizer_config.json`."""
    tokens, ids = header.tokenizer("tokens"), _role_ids(header)
    template = header.fields.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": header("context_length"),
        **{f"{role}_token": tokens[i] for role, i in ids.items()},
        **({"chat_template": template} if template else {}),
    }


def _role_ids(header: Header) -> dict[str, int]:
    defaults = _SENTENCEPIECE_IDS if header.tokenizer("model") == "llama" else {}
    ids = {
        role: header.tokenizer(f"{name}_token_id", defaults.get(role))
        for role, name in _ROLES.items()
    }
    return {role: i for role, i in ids.items() if i is not None}


def _splitter(header: Header) -> Splitter:
    name, architecture = header.tokenizer("pre", "default"), header.architecture
    found = SPLITTERS.get(name, UNNAMED.get(architecture) if name == "default" else None)
    fixed = FIXED.get(architecture, found)
    if found is not None and found == fixed:
        return found
    known = sorted(name for name, s in SPLITTERS.items() if fixed in (s, None))
    raise InputError(
        f"Expected a pre-tokenizer (tokenizer.ggml.pre) among {', '.join(known)} in {header.path}, "
        f"of architecture {architecture}, found '{name}'. Use a file that a newer llama.cpp "
        "converted."
    )


def _byte_level(header: Header) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    splitter = _splitter(header)
    vocab = {token: i for i, token in enumerate(header.tokenizer("tokens"))}
    merges = [tuple(line.split(" ", 1)) for line in header.tokenizer("merges")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=splitter.whole_words))
    if splitter.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(header: Header) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = header.tokenizer("tokens")
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            implied_merges(tokens, header.tokenizer("scores")),
            unk_token=tokens[_role_ids(header)["unk"]],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    normal: list[Any] = [normalizers.Replace(" ", "▁")]
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if header.tokenizer("add_space_prefix", True):
        normal.insert(0, normalizers.Prepend("▁"))
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(normal)
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def implied_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece vocabulary: best piece first, then best halves."""
    rank = {token: i for i, token in enumerate(tokens)}
    found = []
    for token, score in track(zip(tokens, scores, strict=True), "reading merges", len(tokens)):
        halves = [
            (rank[token[:cut]], rank[token[cut:]], token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in rank and token[cut:] in rank
        ]
        found.extend((-score, *half) for half in sorted(halves))
    found.sort(key=lambda merge: merge[0])
    return [(left, right) for *_, left, right in found]


def _add_ends(tokenizer: Any, header: Header) -> None:
    """Puts BOS before and EOS behind each text, where the file asks for it."""
    from tokenizers import processors

    tokens, ids = header.tokenizer("tokens"), _role_ids(header)
    default = header.tokenizer("model") == "llama" or _splitter(header).bos
    wanted = {
        "bos": header.tokenizer("add_bos_token", default),
        "eos": header.tokenizer("add_eos_token", False),
    }
    special = []
    for role in (role for role, on in wanted.items() if on):
        if role not in ids:
            raise InputError(
                f"{header.path} asks for a {role.upper()} token in each text and names none. Use "
                "another file."
            )
        special.append((tokens[ids[role]], ids[role]))
    if not special:
        return
    bos = [tokens[ids["bos"]]] if wanted["bos"] else []
    eos = [tokens[ids["eos"]]] if wanted["eos"] else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", "$B", *eos],
        special_tokens=special,
    )
