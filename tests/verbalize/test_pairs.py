"""Pairs at shared ends of two tokenizers, and the bridge fitted through both models."""

import numpy as np
import pytest

import atlas_jax as aj
from atlas_jax.errors import InputError
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.verbalize import Pairing, Ridge, fit_bridge
from atlas_jax.verbalize.pairs import Encoded, closing_tokens, draw_pairs, encode, shared_ends
from atlas_jax.verbalize.reading import Block, PairReader

WORDS = (
    "the cat sat on a mat while rivers ran past old stone houses and nobody wrote it down".split()
)
SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"


def sentences(n, words=24, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) + "." for _ in range(n)]


def bpe(folder, texts, size, family):
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Inner(models.BPE(unk_token="<unk>", byte_fallback=family == "sentencepiece"))
    if family == "sentencepiece":
        inner.normalizer = normalizers.Replace(" ", "▁")
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        inner.decoder = decoders.Sequence(parts)
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    if family == "sentencepiece":
        special += [f"<0x{i:02X}>" for i in range(256)]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if family == "bytes" else []
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    texts = sentences(200)
    return (
        bpe(tmp_path_factory.mktemp("a"), texts, 300, "bytes"),
        bpe(tmp_path_factory.mktemp("b"), texts, 340, "sentencepiece"),
    )


def test_paired_tokens_close_the_same_prefix(tokenizers):
    text = "the cat sat on a mat, naïve rivers – 日本 ran\n  past 🦊 houses"
    a, b = (encode(t, [text], 512)[0] for t in tokenizers)
    assert a is not None and b is not None
    at_a, at_b = shared_ends(a, b, 1)
    assert len(at_a) > 8 and len(a.ids) != len(b.ids)
    np.testing.assert_array_equal(a.ends[at_a], b.ends[at_b])
    for tokenizer, encoded, at in zip(tokenizers, (a, b), (at_a, at_b), strict=True):
        for position in at:
            prefix = tokenizer.inner.decode(encoded.ids[1 : position + 1].tolist())
            assert prefix == text[: encoded.ends[position]]
    assert not a.special[at_a].any() and 0 not in at_a


def test_of_tokens_that_share_an_end_the_last_has_seen_all():
    encoded = Encoded(
        np.arange(6),
        np.array([0, 1, 2, 2, 2, 5]),
        np.array([True, False, False, False, False, False]),
    )
    ends, at = closing_tokens(encoded, 1)
    assert ends.tolist() == [1, 2, 5] and at.tolist() == [1, 4, 5]
    assert closing_tokens(encoded, 5)[1].tolist() == [5]


def test_left_context_and_number_are_kept_and_the_draw_is_the_texts_own(tokenizers):
    a, b = (encode(t, sentences(1), 512)[0] for t in tokenizers)
    pairing = Pairing(min_left=6, per_text=5)
    first = draw_pairs(a, b, pairing, 77)
    assert len(first[0]) == 5 and min(first[0].min(), first[1].min()) >= 6
    np.testing.assert_array_equal(first, draw_pairs(a, b, pairing, 77))
    assert not np.array_equal(first, draw_pairs(a, b, pairing, 78))


def test_a_text_that_a_normaliser_shortens_is_left_out(tokenizers):
    from tokenizers import normalizers

    inner = tokenizers[0].inner.backend_tokenizer
    inner.normalizer = normalizers.NFKC()
    try:
        assert [e is None for e in encode(tokenizers[0], ["plain", "ﬁne ligature"], 9)] == [
            False,
            True,
        ]
    finally:
        inner.normalizer = normalizers.Sequence([])


class PrefixSide:
    """A model whose state is a function of the characters read so far."""

    def __init__(self, tokenizer, mixing, slip=0):
        self.tokenizer, self.mixing, self.width, self.slip = tokenizer, mixing, len(mixing), slip

    def rows(self, texts, encoded, at):
        out = []
        for tokens, positions in zip(encoded, at, strict=True):
            for end in tokens.ends[np.maximum(positions - self.slip, 1)]:
                out.append(self.mixing @ np.random.default_rng(int(end)).standard_normal(6))
        return np.array(out, np.float32)

    def about(self):
        return {"model": "prefix", "site": "s", "width": self.width}


@pytest.mark.parametrize(("slip", "low", "high"), [(0, 0.999, 1.0), (1, -1.0, 0.5)])
def test_alignment_gives_all_of_the_variance_and_an_off_by_one_does_not(
    tokenizers, slip, low, high
):
    from atlas_jax.verbalize.fit_bridge import read_moments, solve_bridge

    rng = np.random.default_rng(0)
    sides = [
        PrefixSide(tokenizers[0], rng.standard_normal((6, 6))),
        PrefixSide(tokenizers[1], rng.standard_normal((8, 6)), slip),
    ]
    reader = PairReader(*sides, sentences(300, words=30), Pairing(min_left=2, norm_factor=100.0))
    fve = solve_bridge(read_moments(reader, held=150)).meta["fve"]
    assert low <= fve["raw"] <= high


def test_outlying_norms_are_left_out(tokenizers):
    side, other = (PrefixSide(t, np.eye(6)) for t in tokenizers)
    (before,) = PairReader(side, other, sentences(10), Pairing(min_left=2)).blocks()
    plain = side.rows

    def rows(texts, encoded, at):
        found = plain(texts, encoded, at)
        found[3] *= 1e4
        return found

    side.rows = rows
    reader = PairReader(side, other, sentences(10), Pairing(min_left=2))
    (block,) = reader.blocks()
    assert isinstance(block, Block) and len(block.source) == len(before.source) - 1
    assert reader.dropped["pairs with an outlying norm"] == 1


@pytest.fixture(scope="module")
def models(tiny_llama, tiny_gemma3):
    return aj.load_model(tiny_llama), aj.load_model(tiny_gemma3)


PAIRING = Pairing(min_left=5, per_text=4, max_tokens=64)


def test_a_bridge_of_two_models_resumes_and_is_the_same_from_stores(models, tmp_path):
    source, target = models
    texts = aj.Texts(sentences(90), documents=[str(i // 3) for i in range(90)])
    how = {"pairing": PAIRING, "ridge": Ridge(taus=(1e-2, 1e-1, 1.0)), "held": 40}
    file = tmp_path / "moments.safetensors"
    bridge = fit_bridge(source, target, texts, SOURCE, TARGET, moments=file, **how)
    assert bridge.matrix.shape == (32, 32) and bridge.meta["n"] + 40 >= 300
    assert bridge.meta["source"]["site"] == SOURCE and bridge.meta["pairing"]["min_left"] == 5
    assert bridge.meta["fve"]["per_dimension"] > 0  # one text, two random models
    again = fit_bridge(source, target, texts, SOURCE, TARGET, moments=file, **how)
    np.testing.assert_array_equal(again.matrix, bridge.matrix)
    with pytest.raises(InputError, match="found others"):
        fit_bridge(source, target, texts, TARGET, SOURCE, moments=file, **how)
    stores = [
        aj.capture(m, texts, [site], out=tmp_path / name, pool="tokens", max_tokens=64)
        for m, site, name in ((source, SOURCE, "a"), (target, TARGET, "b"))
    ]
    sides = [(s, m.tokenizer) for s, m in zip(stores, models, strict=True)]
    stored = fit_bridge(*sides, texts, SOURCE, TARGET, **how)
    np.testing.assert_allclose(stored.matrix, bridge.matrix, atol=1e-3 * abs(bridge.matrix).max())
    with pytest.raises(InputError, match="other tokens in the store"):
        fit_bridge(*sides, aj.Texts(sentences(9, seed=5)), SOURCE, TARGET, **how)


def test_pooled_pairs_are_another_estimand_and_say_so(models):
    from dataclasses import replace

    texts = sentences(60)
    pooled = fit_bridge(
        *models, texts, SOURCE, TARGET, pairing=replace(PAIRING, pooling="mean"), held=0
    )
    assert pooled.meta["pairing"]["pooling"] == "mean"
    assert 50 <= pooled.meta["n"] <= 60  # one of each text


def test_what_cannot_be_paired_is_refused(models):
    with pytest.raises(InputError, match="none was left .*smaller min_left"):
        fit_bridge(*models, sentences(4), SOURCE, TARGET, pairing=Pairing(min_left=400))
    with pytest.raises(InputError, match="pooling among token, mean"):
        Pairing(pooling="max")
    with pytest.raises(InputError, match="Expected min_left"):
        Pairing(min_left=0)
