"""The pipeline of appendix A.2: properties that hold whatever the documents are."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.corpus import Document, build_corpus
from atlas_jax.corpus.build import quotas, sample
from atlas_jax.corpus.sentences import (
    Sentence,
    count,
    length_bounds,
    normalise,
    unique,
    with_letters,
    within,
)
from atlas_jax.errors import InputError


class Lines:
    """A splitter for tests: one sentence to a line."""

    def tokenize(self, text: str) -> list[str]:
        return text.split("\n")


def build(documents, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_corpus(documents, splitter=Lines(), **options)


def words(n: int, source: str = "a", start: int = 0) -> list[Document]:
    lines = [f"sentence {'x' * (i % 50)} number {i}" for i in range(start, start + n)]
    return [Document(source, f"{source}{i}", "\n".join(lines[i : i + 10])) for i in range(0, n, 10)]


SENTENCES = st.builds(
    Sentence,
    st.sampled_from("abc"),
    st.sampled_from(["1", "2"]),
    st.text(min_size=1, max_size=12),
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        st.sampled_from(["web", "news", "law"]),
        st.text("12", max_size=2),
        st.text(st.characters(codec="utf-8"), max_size=60),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(st.lists(SENTENCES, min_size=1), st.tuples(st.integers(0, 49), st.integers(50, 100)))
def test_length_filter_is_numpys_percentile_with_both_ends(sentences, percentiles):
    bounds = length_bounds(sentences, percentiles)
    low, high = np.percentile([len(s.text) for s in sentences], percentiles)
    assert within(sentences, bounds) == [s for s in sentences if low <= len(s.text) <= high]


@given(st.lists(SENTENCES))
def test_each_text_is_kept_once_whatever_the_order(sentences):
    kept = unique(sentences)
    assert sorted(s.text for s in kept) == sorted({s.text for s in sentences})
    assert set(kept) <= set(sentences)
    assert set(unique(sentences[::-1])) == set(kept)


def test_only_numbers_and_special_characters_go():
    texts = ["12.5 %", "***", "3 cats", "— 7 —", "Здравствуй", "日本", "½ ² ₃", ""]
    kept = with_letters(Sentence("a", "1", text) for text in texts)
    assert [s.text for s in kept] == ["3 cats", "Здравствуй", "日本"]


@given(st.text(st.characters()))
def test_normalised_text_is_utf8_and_stable(text):
    once = normalise(text)
    assert once.encode("utf-8").decode("utf-8") == once
    assert normalise(once) == once
    assert not re.search(r"\s\s|^\s|\s$|[\n\t]", once)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=1),
    st.floats(0, 1),
)
def test_quotas_are_the_largest_remainder(counts, share):
    total = sum(counts.values())
    n = int(share * total)
    result = quotas(counts, n)
    assert sum(result.values()) == n
    assert all(0 <= result[s] <= counts[s] for s in counts)
    assert all(abs(result[s] - n * counts[s] / total) < 1 for s in counts)
    assert quotas(dict(reversed(counts.items())), n) == result


def test_quotas_by_hand():
    assert quotas({"a": 5, "b": 3, "c": 2}, 4) == {"a": 2, "b": 1, "c": 1}
    assert quotas({"b": 1, "a": 1}, 1) == {"a": 1, "b": 0}


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 20), st.integers(0, 2**31), st.randoms())
def test_the_order_of_documents_plays_no_role(documents, n, seed, shuffler):
    shuffled = shuffler.sample(documents, len(documents))
    try:
        first = build(documents, n=n, seed=seed)
    except InputError:
        with pytest.raises(InputError):
            build(shuffled, n=n, seed=seed)
        return
    second = build(shuffled, n=n, seed=seed)
    assert first.hash == second.hash
    assert (first.train, first.eval, first.counts) == (second.train, second.eval, second.counts)


@settings(deadline=None)
@given(DOCUMENTS, st.floats(0, 1))
def test_halves_are_disjoint_and_counts_fall(documents, fraction):
    try:
        corpus = build(documents, train_fraction=fraction)
    except InputError:
        return
    texts = [*corpus.train, *corpus.eval]
    assert len(set(texts)) == len(texts)
    assert len(corpus.train) == round(fraction * len(texts))
    totals = {stage: sum(by.values()) for stage, by in corpus.counts.items()}
    order = ["sentences", "length", "letters", "unique", "sampled"]
    assert [totals[s] for s in order] == sorted((totals[s] for s in order), reverse=True)
    assert totals["train"] + totals["eval"] == totals["sampled"] == len(texts)
    assert totals["documents"] == len(documents)


def test_sources_keep_their_share():
    corpus = build(words(600, "big") + words(300, "mid", 600) + words(100, "small", 900),
                   n=100, percentiles=(0, 100))  # fmt: skip
    assert corpus.counts["sampled"] == {"big": 60, "mid": 30, "small": 10}
    assert len(corpus.train) == len(corpus.eval) == 50
    mixed = sum(
        a != b for a, b in zip(corpus.train.sources, corpus.train.sources[1:], strict=False)
    )
    assert mixed > 10  # shuffled: no run of one source after the other


def test_each_text_keeps_its_source_and_document():
    documents = words(200, "x") + words(100, "y", 200)
    by_name = {d.document: d for d in documents}
    corpus = build(documents)
    for half in (corpus.train, corpus.eval):
        for text, source, name in zip(half.texts, half.sources, half.documents, strict=True):
            assert by_name[name].source == source
            assert text in by_name[name].text.split("\n")


def test_the_seed_decides_and_a_larger_n_only_adds():
    documents = words(500)
    assert build(documents, n=50, seed=1).hash != build(documents, n=50, seed=2).hash
    small, large = build(documents, n=50), build(documents, n=200)
    assert {*small.train, *small.eval} < {*large.train, *large.eval}
    assert build(documents, n=50).hash == build(documents, n=50).hash


def test_the_hash_never_changes():
    corpus = build(words(100), n=20, seed=3)
    assert corpus.hash == "4a57517c115f8fb11e05d072d007d3850ed72de3fe8ecacf3610c4858399f356"


def test_the_draw_is_fair():
    pool = [Sentence("a", "d", f"sentence {i}") for i in range(100)]
    hits = np.zeros(100)
    for seed in range(400):
        for sentence in sample(pool, 20, seed):
            hits[int(sentence.text.split()[1])] += 1
    # Each is drawn Binomial(400, 0.2) times: mean 80, standard deviation 8.
    assert hits.sum() == 8000
    assert np.abs(hits - 80).max() < 5 * 8
    assert 5 < hits.std() < 11


def test_more_than_there_is_warns_and_takes_all():
    with pytest.warns(UserWarning, match=r"Expected 10000 .* there are \d+"):
        corpus = build_corpus(words(100), n=10_000, splitter=Lines())
    assert corpus.counts["sampled"] == corpus.counts["unique"]


@pytest.mark.parametrize("documents", [[], [Document("a", "1", " \n ")]])
def test_nothing_to_read(documents):
    with pytest.raises(InputError, match="got none") as error:
        build(documents)
    assert "\n" not in str(error.value)


def test_nothing_but_numbers():
    with pytest.raises(InputError, match="no letter"):
        build([Document("a", "1", "12\n34\n56")])


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"train_fraction": 1.5},
        {"train_fraction": float("nan")},
        {"percentiles": (95, 5)},
        {"percentiles": (-1, 50)},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(InputError, match="Expected"):
        build(words(10), **options)


def test_sentence_counts_by_source_are_sorted():
    sentences = [Sentence(s, "d", str(i)) for i, s in enumerate("bab")]
    assert list(count(sentences).items()) == [("a", 1), ("b", 2)]


@pytest.mark.download
def test_the_default_text_and_nltks_tokenizer():
    corpus = build_corpus("packages", n=2000)
    assert set(corpus.counts["sampled"]) == {
        *("news", "python-docs", "quotations", "speeches", "wikipedia")
    }
    assert len(corpus.train) == len(corpus.eval) == 1000
    texts = [*corpus.train, *corpus.eval]
    assert sum(corpus.counts["unique"].values()) > 70_000
    assert np.mean([t[0].isupper() or not t[0].isalpha() for t in texts]) > 0.95
    sources = [*corpus.train.sources, *corpus.eval.sources]
    articles = [t for t, source in zip(texts, sources, strict=True) if source == "wikipedia"]
    assert len(articles) > 200
    assert not [t for t in articles if re.search(r"\[\[|\{\{|<ref|''", t)]
    assert not [t for t in texts if re.search(r">>>|\$FreeBSD", t)]
    low, high = corpus.meta["length_bounds"]
    assert all(low <= len(t) <= high for t in texts)


@pytest.mark.download
def test_the_hash_of_the_default_text_never_changes():
    # Without the documentation of Python, which differs from one Python to the next.
    corpus = build_corpus("packages:news,quotations,speeches,wikipedia", n=600, seed=0)
    assert corpus.hash == "9570bb16e732036377cf46e9ccb4d366b9c1cedaf6b3715b017365bc82154560"
