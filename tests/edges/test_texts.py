"""Texts at the edge: empty, endless, of many bytes, from right to left, and such as are no text."""

import warnings

import numpy as np
import pytest

import atlas_jax as aj
from atlas_jax.activations.recording import Recording
from atlas_jax.atlas.labels import Labels
from atlas_jax.errors import InputError
from atlas_jax.files import write_text
from atlas_jax.pipeline.token_heat import read_heat
from atlas_jax.query import Query
from atlas_jax.report.markup import element
from atlas_jax.steering import difference_of_means
from atlas_jax.verbalize.pairs import closing_tokens, encode

ODD = {
    "emoji": "a 👩‍👩‍👧‍👦 family 🇩🇪 waves 👋🏽",
    "right to left": "שלום עולם, مرحبا بالعالم",
    "combining": "e\u0301 and a\u0308\u0323 beside é and ạ̈",
    "joiners": "x\u200dy\ufeffz\u2060w",
    "scripts": "नमस्ते 世界 𝒳𝒴",
    "control": "nul \x00 and bell \x07 and \x7f",
    "replacement": "the mark \ufffd itself",
    "white space": "\u2003\t two \u00a0 spaces\r\n",
}
SURROGATES = ["half \ud83d of a pair", "\udfff"]
SITE = "blocks.1.mlp.hook_post"


@pytest.mark.parametrize("text", ODD.values(), ids=list(ODD))
def test_pieces_are_whole_characters_and_make_up_the_text(model, text):
    (ids,) = model.tokenizer.encode_batch([text])
    pieces = model.tokenizer.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces[1:]) == text
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")
    assert pieces != model.tokenizer.tokens(ids) or text.isascii()


@pytest.mark.parametrize("text", ODD.values(), ids=list(ODD))
def test_offsets_count_code_points(model, text):
    (encoded,) = encode(model.tokenizer, [text], 512)
    ends, last = closing_tokens(encoded, 1)
    pieces = model.tokenizer.pieces(encoded.ids)
    assert ends[-1] == len(text)
    for end, position in zip(ends, last, strict=True):
        assert "".join(pieces[1 : position + 1]) == text[:end]


def test_heat_falls_on_whole_characters(model):
    texts = list(ODD.values())
    found = read_heat(model, [(text, SITE, 3) for text in texts], max_tokens=256)
    for text, (tokens, heat) in zip(texts, found, strict=True):
        assert "".join(tokens) == text and len(tokens) == len(heat) and all(tokens)
        assert max(heat) == 1.0 or not any(heat)


@pytest.mark.parametrize("text", SURROGATES)
@pytest.mark.parametrize(
    "use",
    [
        lambda m, t: m.tokenizer.encode_batch(["fine", t]),
        lambda m, t: encode(m.tokenizer, ["fine", t], 16),
        lambda m, t: aj.generate(m, ["fine", t], max_new_tokens=1),
        lambda m, t: difference_of_means(m, ["fine"], [t], [SITE]),
    ],
)
def test_a_lone_surrogate_is_refused_by_its_number(model, use, text):
    with pytest.raises(InputError, match="text 1: pass text.encode") as error:
        use(model, text)
    message = str(error.value)
    assert "\n" not in message and message.isprintable() and message.encode()


@pytest.mark.parametrize("text", SURROGATES)
def test_a_lone_surrogate_is_written_as_a_question_mark(tmp_path, text):
    expected = text.encode("utf-8", "replace").decode()
    assert write_text(tmp_path / "a.txt", text).read_text("utf-8") == expected
    Labels.of([(3, text)]).save(tmp_path / "labels.jsonl")
    assert Labels.load(tmp_path / "labels.jsonl")[3] == (expected,)
    path = Query(np.ones(4, np.float32), text).save(tmp_path / "q.json")
    assert Query.load(path).name == expected


def test_a_page_shows_what_html_cannot_hold_as_the_replacement_mark():
    assert element("p", "a\x00b\ud800\tc", title="\x1b[31m") == (
        '<p title="\ufffd[31m">a\ufffdb\ufffd\tc</p>'
    )
    assert element("p", ODD["emoji"]) == f"<p>{ODD['emoji']}</p>"


@pytest.fixture(scope="module")
def endless():
    return "rivers and streets " * 34_000


def test_a_text_of_100_000_tokens_is_cut_and_counted(model, endless, tmp_path):
    texts = aj.Texts([*ODD.values(), endless, endless[:400]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = aj.capture(model, texts, [SITE], out=tmp_path, max_tokens=16)
    rows = model.tokenizer.encode_batch(list(texts))
    assert len(rows[-2]) > 100_000
    cut = sum(len(row) > 16 for row in rows)
    assert store.meta["cut"] == cut > 1 and store.meta["tokens"] == sum(
        min(len(row), 16) for row in rows
    )
    assert f"{cut} texts cut at 16 tokens" in repr(store)
    values = store[SITE][:]
    assert np.isfinite(values).all() and np.array_equal(values[-1], values[-2])


def test_nothing_is_read_beyond_what_the_model_was_made_for(model, endless):
    asked = Recording.ask(model, [SITE], "max", None, aj.Texts(["a text"]), 10**6)
    assert asked.meta["max_tokens"] == model.context_length == 256
    with pytest.raises(InputError, match="at most 256 tokens .*, 3 of them to be written") as error:
        aj.generate(model, ["short", endless], max_new_tokens=3)
    assert "\n" not in str(error.value)


def test_an_endless_example_is_cut(model, endless, monkeypatch):
    seen = []

    def read(tokens, mask, sites, pool):
        seen.append(tokens.shape)
        return {site: np.ones((len(tokens), model.width(site)), np.float32) for site in sites}

    monkeypatch.setattr(model, "read", read)
    found = difference_of_means(model, [endless], [endless], [SITE])
    assert not found[SITE].any() and all(length <= 512 for _, length in seen)


def test_an_empty_text_is_named(model, tmp_path):
    with pytest.raises(InputError, match=r"Text 2 \(''\) has 1 tokens.*leave texts") as error:
        aj.capture(model, aj.Texts(["one text", "another", ""]), [SITE], out=tmp_path / "s")
    assert "\n" not in str(error.value) and not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="at least one text to capture"):
        aj.capture(model, aj.Texts([]), [SITE], out=tmp_path / "s")
    with pytest.raises(InputError, match="at least two tokens"):
        difference_of_means(model, ["fine"], [""], [SITE])


def test_a_row_of_padding_leaves_the_batch_as_it_is(model):
    tokens, mask = model.tokenizer.pad(model.tokenizer.encode_batch(["two dogs", "a cat"]), 12)
    mask[1] = False
    logits, acts = model(tokens, mask, taps=(SITE,))
    assert np.isfinite(np.asarray(logits)).all() and np.isfinite(np.asarray(acts[SITE])).all()
    mask[1] = True
    tokens[1] = tokens[1][::-1]
    again, _ = model(tokens, mask, taps=(SITE,))
    assert np.allclose(logits[0], again[0], atol=1e-5)


def test_the_functions_are_the_public_names_whoever_imports_their_modules():
    from atlas_jax.fit_streaming import fit_streaming
    from atlas_jax.identify import identify

    assert aj.identify is identify and aj.fit_streaming is fit_streaming
