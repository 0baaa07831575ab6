"""Tokenizers from GGUF headers against those that the vocabularies were trained with."""

import inspect
import json
import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from atlas_jax.errors import InputError
from atlas_jax.models.gguf import convert_gguf
from atlas_jax.models.gguf.tokenizer import implied_merges
from atlas_jax.models.tokenizer import Tokenizer as OurTokenizer

# As in the tokenizer.json of Mistral Nemo.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
TRICKY = [
    "I'll DON'T we'Ve it'S 'tis O'Neill's",
    "1 12 123 1234 12345 3.1415 a1b22c333 ½ ² ٣٤ 1,000,000",
    "  two  blanks   three \t tab\n\n\nlines \r\n end  ",
    "CamelCaseHTTPServer snake_case kebab-case x**2 != y//3 /* ok */ end.\n/path //\n/",
    "“quotes” — dashes… ¿Qué? naïve café e\u0301 A\u030a \ufb01 Ünï",
    "日本語のテキスト 한국어 Привет мир नमस्ते ไทย",
    "🐶🐱 👩‍👩‍👧 é́́ \u200b zero\u00a0width",
    "<|im_start|>user <eos> <bos>x</s>",
    "",
    " ",
    "'",
    "def f(x):\n    return x\n\n\n\tpass",
]


def split_by(pattern):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])


def built_by(cls):
    """The parts of a tokenizer that the class of transformers builds."""
    inner = cls(vocab={"<|endoftext|>": 0}, merges=[]).backend_tokenizer
    return inner.normalizer, inner.pre_tokenizer


def cl100k():
    return inspect.signature(TikTokenConverter).parameters["pattern"].default


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
# Name -> architecture, (normalizer, pre-tokenizer) of the original, whether whole words win, BOS.
ORIGINALS = {
    "gpt-2": ("gpt2", built_by(GPT2Tokenizer), False, False),
    "default": ("gpt2", built_by(GPT2Tokenizer), False, False),
    "olmo": ("gptneox", built_by(GPTNeoXTokenizer), False, False),
    "smollm": ("llama", (None, SMOLLM), False, False),
    "llama-bpe": ("llama", (None, split_by(cl100k())), True, True),
    "dbrx": ("olmo2", (None, split_by(cl100k())), False, False),
    "qwen2": ("qwen2", built_by(Qwen2Tokenizer), False, False),
    "tekken": ("llama", (None, split_by(TEKKEN)), True, True),
}
FAMILY = {"gptneox": "gpt_neox"}


def train(normalizer, pre_tokenizer, whole_words, texts, size=400):
    """A byte-level BPE, in which some words are tokens that no merges lead to."""
    inner = Tokenizer(models.BPE())
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*texts, *TRICKY] * 2, trainer)
    model = json.loads(inner.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    words = {word for text in TRICKY for word, _ in pre_tokenizer.pre_tokenize_str(text)}
    for word in sorted(words - set(vocab))[::2]:
        vocab[word] = len(vocab)
    inner.model = models.BPE(vocab, merges, ignore_merges=whole_words)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    return inner, vocab, merges


def fields_of(vocab, **more):
    tokens = sorted(vocab, key=vocab.get)
    kinds = [3 if token in SPECIAL[:3] else 2 if token == "<unk>" else 1 for token in tokens]
    fields = {"tokens": tokens, "token_type": kinds, "add_bos_token": None} | more
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


@pytest.fixture
def convert(source, tools, tmp_path):
    """A file of a family with a given vocabulary, converted: our tokenizer of it."""

    def make(architecture, fields, size):
        name = FAMILY.get(architecture, architecture)
        embeds = {"gpt2": "transformer.wte.weight", "gptneox": "gpt_neox.embed_in.weight"}
        heads = {"gptneox": "embed_out.weight"}
        shapes = {
            embeds.get(architecture, "model.embed_tokens.weight"): [size, 32],
            heads.get(architecture, "lm_head.weight"): [size, 32],
        }
        golden = {"config": {"vocab_size": size}, "tensors": shapes}
        if architecture in ("gpt2", "qwen2", "gemma"):
            del shapes["lm_head.weight"]
        path = tools.write(source(name, golden), tmp_path / "tiny.gguf", fields=fields)
        return OurTokenizer(convert_gguf(path, tmp_path / "out"))

    return make


def hexed(rows):
    return [" ".join(f"{i:x}" for i in row) for row in rows]


@pytest.mark.parametrize("name", ORIGINALS)
def test_words_are_cut_as_by_the_original(name, convert, sentences, tmp_path):
    architecture, parts, whole_words, bos = ORIGINALS[name]
    original, vocab, merges = train(*parts, whole_words, sentences)
    merges = [" ".join(pair) for pair in merges]
    ours = convert(architecture, fields_of(vocab, pre=name, merges=merges), len(vocab))
    texts = [*TRICKY, *sentences]
    rng = random.Random(0)
    texts += ["".join(rng.choices("".join(TRICKY), k=40)) for _ in range(200)]
    expected = [[1] * bos + original.encode(text).ids for text in texts]
    assert hexed(ours.encode_batch(texts)) == hexed(expected)
    # As written: transformers rebuilds the tokenizer of some families by itself.
    written = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert hexed(row.ids for row in written.encode_batch(texts)) == hexed(expected)
    for text, ids in zip(texts, expected, strict=True):
        assert ours.decode(ids) == original.decode(ids)
        if not {"<eos>", "<bos>"} & set(text.split()) and parts[0] is None and "<" not in text:
            assert ours.decode(ids) == text


def test_the_original_ways_of_cutting_differ_on_these_texts():
    """Without this, the test above would not tell them apart."""
    seen = {}
    for name, (_, (normalizer, pre), _, _) in ORIGINALS.items():
        texts = [normalizer.normalize_str(t) if normalizer else t for t in TRICKY]
        seen[name] = str([pre.pre_tokenize_str(text) for text in texts])
    assert len(set(seen.values())) == 6  # default is gpt-2, dbrx differs from llama-bpe in merges


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_vocabularies(prefix, convert, sentences):
    steps = [normalizers.Prepend("▁")] if prefix else []
    normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizer
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL, *bytes_],
        limit_alphabet=60,
        show_progress=False,
    )
    inner.train_from_iterator(sentences, trainer)
    model = json.loads(inner.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    # The first merge that makes a piece gives it its score, as in a SentencePiece model.
    first = {"".join(pair): i for i, pair in reversed(list(enumerate(merges)))}
    original = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    original.normalizer = normalizer
    original.add_special_tokens(SPECIAL[:3])
    tokens = sorted(vocab, key=vocab.get)
    fields = fields_of(
        vocab,
        model="llama",
        pre="default",
        merges=None,
        scores=[float(-first.get(token, 1000)) for token in tokens],
        add_space_prefix=prefix,
        unknown_token_id=3,
    )
    fields["tokenizer.ggml.token_type"] = [
        6 if t in bytes_ else k
        for t, k in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    ]
    ours = convert("gemma", fields, len(vocab))
    texts = [*sentences, *(text for text in TRICKY if text)]
    # No key says whether BOS is added, and llama.cpp adds it to such vocabularies.
    expected = [[1, *original.encode(text).ids] for text in texts]
    assert hexed(ours.encode_batch(texts)) == hexed(expected)
    for text, ids in zip(texts, expected, strict=True):
        if "<" not in text:
            assert ours.decode(ids) == text


def test_special_tokens_of_phi3_swallow_the_blanks_behind_them(convert):
    tokens = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "▁", "a", "b", "▁a"]
    fields = fields_of(
        {token: i for i, token in enumerate(tokens)},
        model="llama",
        pre="default",
        merges=None,
        scores=[0.0] * 8 + [-1.0],
        token_type=[2, 3, 3, 3, 3, 1, 1, 1, 1],
    )
    tokenizer = convert("phi3", fields, len(tokens))
    ids = tokenizer.encode_batch(["<|user|>\n a<|endoftext|> a"])[0]
    assert [tokens[i] for i in ids] == ["<s>", "<|user|>", "▁a", "<|endoftext|>", "▁", "▁a"]


def test_eos_behind_each_text_where_the_file_asks_for_it(convert, sentences):
    original, vocab, merges = train(None, GPT2, False, sentences)
    merges = [" ".join(pair) for pair in merges]
    fields = fields_of(vocab, merges=merges, add_bos_token=True, add_eos_token=True)
    ours = convert("gpt2", fields, len(vocab))
    assert ours.encode_batch(["a cat"]) == [[1, *original.encode("a cat").ids, 2]]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"pre": "qwen35"}, "'qwen35'"),
        ({"pre": "default"}, "'default'"),
        ({"pre": None}, "newer llama.cpp"),
        ({"model": "t5"}, "'t5'"),
        ({"add_sep_token": True}, "add_sep_token=True"),
        ({"precompiled_charsmap": "x"}, "precompiled_charsmap"),
        ({"bos_token_id": None}, "BOS"),
        ({"merges": None}, "found 320, 320 and 0"),
        ({"tokens": None, "token_type": None}, "found 0"),
        ({"token_type": [1] * 319}, "found 320, 319"),
        ({"tokens": [str(i) for i in range(400)], "token_type": [1] * 400}, "up to 320"),
    ],
)
def test_tokenizers_that_are_not_known_are_refused(fields, part, source, tools, tmp_path):
    fields = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    path = tools.write(source("llama"), tmp_path / "tiny.gguf", fields=fields)
    with pytest.raises(InputError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf"]


def test_a_qwen2_file_with_another_tokenizer_is_refused(source, tools, tmp_path):
    fields = {"tokenizer.ggml.pre": "llama-bpe"}
    path = tools.write(source("qwen2"), tmp_path / "tiny.gguf", fields=fields)
    with pytest.raises(InputError, match="qwen2.*'llama-bpe'"):
        convert_gguf(path, tmp_path / "out")


def test_merges_of_a_sentencepiece_vocabulary():
    tokens = ["a", "b", "c", "ab", "bc", "abc"]
    scores = [0.0, 0.0, 0.0, -1.0, -2.0, -3.0]
    assert implied_merges(tokens, scores) == [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]


def test_the_chat_template_is_kept(source, tools, tmp_path):
    fields = {"tokenizer.chat_template": "{% for m in messages %}[{{ m.content }}]{% endfor %}"}
    path = tools.write(source("llama"), tmp_path / "tiny.gguf", fields=fields)
    tokenizer = OurTokenizer(convert_gguf(path, tmp_path / "out"))
    ids = tokenizer.chat([{"role": "user", "content": "a cat"}])
    assert tokenizer.decode(ids) == "[a cat]"
