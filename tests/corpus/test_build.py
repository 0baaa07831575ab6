"""The pipeline of appendix A.2: what it must give, whatever the documents are."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.corpus import Corpus, Document, build_corpus, spill
from atlas_jax.corpus.draw import quotas
from atlas_jax.corpus.sentences import has_letter, normalise, punkt
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


def by_hand(documents, n=None, seed=0, train_fraction=0.5, percentiles=(5, 95)):
    """Appendix A.2 in memory, each step as the appendix words it."""
    pool = [
        (sentence, source, name)
        for source, name, text in documents
        for line in text.split("\n")
        if (sentence := normalise(line))
    ]
    counts = {"documents": Counter(d.source for d in documents)}
    counts["sentences"] = Counter(source for _, source, _ in pool)
    low, high = np.percentile([len(s[0]) for s in pool], percentiles) if pool else (0, 0)
    pool = [s for s in pool if low <= len(s[0]) <= high]
    counts["length"] = Counter(source for _, source, _ in pool)
    pool = [s for s in pool if any(category(c)[0] == "L" for c in s[0])]
    counts["letters"] = Counter(source for _, source, _ in pool)
    first = {}
    for row in sorted(pool, reverse=True):
        first[row[0]] = row
    pool = sorted(
        first.values(),
        key=lambda s: blake2b(s[0].encode(), digest_size=16, key=str(seed).encode()).digest(),
    )
    counts["unique"] = Counter(source for _, source, _ in pool)
    left = quotas(counts["unique"], len(pool) if n is None else min(n, len(pool)))
    drawn = []
    for row in pool:
        if left[row[1]]:
            left[row[1]] -= 1
            drawn.append(row)
    counts["sampled"] = Counter(source for _, source, _ in drawn)
    cut = round(train_fraction * len(drawn))
    counts["train"] = Counter(source for _, source, _ in drawn[:cut])
    counts["eval"] = Counter(source for _, source, _ in drawn[cut:])
    return drawn[:cut], drawn[cut:], counts


LINES = st.sampled_from(
    ["the cat", "a dog ran", "12.5", "the  cat ", "ÄÖ", "日本", "x" * 40, "—", "b"]
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        st.sampled_from(["web", "news", "law"]),
        st.text("12", max_size=2),
        st.one_of(
            st.text(st.characters(codec="utf-8"), max_size=60),
            st.lists(LINES, max_size=8).map("\n".join),
        ),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    DOCUMENTS,
    st.one_of(st.none(), st.integers(1, 20)),
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.tuples(st.integers(0, 49), st.integers(50, 100)),
)
def test_the_result_is_that_of_a_plain_program(documents, n, seed, fraction, percentiles):
    options = {"n": n, "seed": seed, "train_fraction": fraction, "percentiles": percentiles}
    try:
        corpus = build(documents, **options)
    except InputError:
        assert not by_hand(documents, **options)[2]["letters"]
        return
    train, evaluation, counts = by_hand(documents, **options)
    for half, rows in ((corpus.train, train), (corpus.eval, evaluation)):
        assert list(zip(half, half.sources, half.documents, strict=True)) == rows
    assert {s: dict(by) for s, by in corpus.counts.items()} == {
        s: dict(b) for s, b in counts.items()
    }
    assert all(list(by) == sorted(by) for by in corpus.counts.values())


@settings(deadline=None, max_examples=30)
@given(DOCUMENTS, st.integers(1, 20), st.randoms())
def test_neither_order_nor_files_play_a_role(monkeypatch_module, documents, n, shuffler):
    shuffled = shuffler.sample(documents, len(documents))
    try:
        first = build(documents, n=n)
    except InputError:
        with pytest.raises(InputError):
            build(shuffled, n=n)
        return
    with monkeypatch_module.context() as patch:
        patch.setattr(spill, "CHUNK", 10)  # a file for nearly each document
        second = build(shuffled, n=n)
    assert first.hash == second.hash
    assert (first.train, first.eval, first.counts) == (second.train, second.eval, second.counts)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize(
    ("text", "letters"),
    [("12.5 %", 0), ("***", 0), ("3 cats", 1), ("— 7 —", 0), ("Здравствуй", 1), ("日本", 1),
     ("½ ² ₃", 0), ("", 0)],
)  # fmt: skip
def test_only_numbers_and_special_characters_go(text, letters):
    assert has_letter(text) == bool(letters)


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


def test_sources_keep_their_share():
    corpus = build(words(600, "big") + words(300, "mid", 600) + words(100, "small", 900),
                   n=100, percentiles=(0, 100))  # fmt: skip
    assert corpus.counts["sampled"] == {"big": 60, "mid": 30, "small": 10}
    assert len(corpus.train) == len(corpus.eval) == 50
    mixed = sum(
        a != b for a, b in zip(corpus.train.sources, corpus.train.sources[1:], strict=False)
    )
    assert mixed > 10  # shuffled: no run of one source after the other


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
    hits = np.zeros(100)
    for seed in range(400):
        ranks = [spill.rank(f"sentence {i}", seed) for i in range(100)]
        hits[np.argsort(np.array(ranks, "V16").view(">u8").reshape(-1, 2)[:, 0])[:20]] += 1
    # Each is drawn Binomial(400, 0.2) times: mean 80, standard deviation 8.
    assert hits.sum() == 8000
    assert np.abs(hits - 80).max() < 5 * 8
    assert 5 < hits.std() < 11


def test_more_than_there_is_warns_and_takes_all():
    with pytest.warns(UserWarning, match=r"Expected 10000 .* there are \d+"):
        corpus = build_corpus(words(100), n=10_000, splitter=Lines())
    assert corpus.counts["sampled"] == corpus.counts["unique"]


@pytest.mark.parametrize(
    ("documents", "what"),
    [
        ([], "documents with text"),
        ([Document("a", "1", " \n ")], "sentences in"),
        ([Document("a", "1", "12\n34\n56")], "a letter"),
    ],
)
def test_nothing_left(documents, what):
    with pytest.raises(InputError, match=f"{what}.* got none") as error:
        build(documents)
    assert "\n" not in str(error.value)


def test_no_length_between_the_percentiles():
    with pytest.raises(InputError, match="between the percentiles"):
        build([Document("a", "1", "four\nfive of")], percentiles=(40, 60))


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"train_fraction": 1.5},
        {"train_fraction": float("nan")},
        {"percentiles": (95, 5)},
        {"percentiles": (-1, 50)},
        {"max_documents": 0},
        {"workers": 0},
        {"seed": 2**70},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(InputError, match="Expected"):
        build(words(10), **options)


def test_only_the_first_documents():
    assert build(words(100), max_documents=3).counts["documents"] == {"a": 3}


def test_names_and_texts_that_utf8_cannot_hold(tmp_path):
    lone = "\ud800"
    documents = [Document(f"s{lone}", f"d{lone}", f"A cat {lone} ran {i}") for i in range(9)]
    corpus = build(documents, percentiles=(0, 100), out=tmp_path)
    assert set(corpus.train.sources) == {"s?"} and set(corpus.train.documents) == {"d?"}
    assert all(text.startswith("A cat ? ran") for text in corpus.train)
    assert Corpus.load(tmp_path).hash == corpus.hash


def test_a_huge_document_comes_in_pieces():
    line = "The quick brown fox jumps over the lazy dog number {} today.\n"
    text = "".join(map(line.format, range(40_000)))
    assert len(text) > 2 * 2**20
    corpus = build([Document("a", "d", text)], percentiles=(0, 100))
    assert corpus.counts["documents"] == {"a": 3}
    assert corpus.counts["unique"] == {"a": 40_000}  # cut between lines, so none is lost
    assert set(corpus.train.documents) == {"d"}


# Many files, in other processes, under another order of hashes: the same bytes.
BUILDING = """
import sys
from pathlib import Path
from atlas_jax.corpus import build_corpus, spill
spill.CHUNK = 4000
build_corpus(sys.argv[1], n=300, seed=5, workers=int(sys.argv[2]), out=sys.argv[3])
"""
TALE = (
    "Dr. Smith went to the {0} market on day {1}. He bought {1} apples there! Was it e.g. for a "
    "pie, or for the {0} horse? Nobody knows about number {1}."
)


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tales")
    for source in ("north", "south"):
        (folder / source).mkdir()
        for i in range(40):
            tale = "\n\n".join(TALE.format(source, 100 * i + j) for j in range(10))
            (folder / source / f"{i}.txt").write_text(tale)
    return folder


def spawn(tales, workers, out, seed):
    command = [sys.executable, "-c", BUILDING, str(tales), str(workers), str(out)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONHASHSEED": seed})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.download
def test_the_same_bytes_whatever_the_processes(tales, tmp_path):
    processes = [spawn(tales, w, tmp_path / str(w), str(w)) for w in (1, 3)]
    assert [process.wait() for process in processes] == [0, 0]
    first, second = contents(tmp_path / "1"), contents(tmp_path / "3")
    assert first == second and set(first) == {"corpus.parquet", "corpus.json"}
    corpus = build_corpus(str(tales), n=300, seed=5)
    assert contents(corpus.save(tmp_path / "saved")) == first


@pytest.mark.download
def test_a_killed_build_goes_on(tales, tmp_path, monkeypatch):
    process = spawn(tales, 2, tmp_path, "0")
    unfinished = tmp_path / ".unfinished"
    while len(list(unfinished.glob("*.arrow"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.name for path in tmp_path.iterdir()} == {".unfinished"}
    kept = [p for p in unfinished.glob("*.arrow") if p.name != "unique.arrow"]
    assert len(kept) >= 3
    kept[0].write_bytes(kept[0].read_bytes()[:-50])  # not whole: made again
    split = []
    monkeypatch.setattr(spill, "CHUNK", 4000)
    inner = punkt().tokenize
    monkeypatch.setattr(punkt(), "tokenize", lambda text: split.append(text) or inner(text))
    resumed = build_corpus(str(tales), n=300, seed=5, workers=1, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.parquet", "corpus.json"}
    assert 0 < len(split) <= 80 - 2 * (len(kept) - 1)
    assert resumed.hash == build_corpus(str(tales), n=300, seed=5).hash


@pytest.mark.download
def test_a_worker_that_dies_is_named(tales, tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "CHUNK", 4000)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"one ended \(1;"):
        build_corpus(str(tales), workers=2, out=tmp_path)


def test_one_build_at_a_time(tmp_path):
    def documents():
        with pytest.raises(InputError, match="another one is at work"):
            build(words(20), out=tmp_path)
        yield from words(100)

    assert build(documents(), out=tmp_path).hash == build(words(100)).hash


def test_what_reading_raises_is_the_readers(tmp_path):
    def documents():
        yield from words(20)
        raise FileNotFoundError("mine")

    with pytest.raises(FileNotFoundError, match="mine"):
        build(documents(), out=tmp_path / "c")
    assert not (tmp_path / "c" / "corpus.json").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Expected to write"):
        build(words(20), out=tmp_path / "file")


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
