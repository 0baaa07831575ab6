"""Texts and Corpus: sequences, hashes, files."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.corpus import Corpus, Texts
from atlas_jax.errors import InputError

CARD = "2cf4f14f7faf8651473362aa1bb271bee44dca092ba28404a59e0432c56fda47"

TEXT = st.text(st.characters(codec="utf-8"))


def corpus() -> Corpus:
    train = Texts(["one.", "zwei\n"], ["a", "b"], ["a1", "b1"])
    return Corpus(train, Texts(["три"], ["a"], ["a2"]), {"unique": {"a": 2, "b": 1}}, {"seed": 7})


def test_texts_is_a_sequence():
    texts = corpus().train
    assert len(texts) == 2 and texts[1] == "zwei\n" and texts[-1] == texts[1]
    assert list(texts) == ["one.", "zwei\n"] and "one." in texts
    assert texts[1:] == Texts(["zwei\n"], ["b"], ["b1"])
    with pytest.raises(IndexError):
        texts[2]


@given(st.lists(TEXT, max_size=9), st.slices(9), st.integers(-10, 9))
def test_texts_and_their_columns_are_as_lists(values, taken, place):
    texts = Texts(values, [f"s{v}" for v in values], [f"d{v}" for v in values])
    assert list(texts) == list(texts.texts) == values and len(texts) == len(values)
    assert list(texts[taken]) == texts.texts[taken] == values[taken]
    assert texts[taken].sources == [f"s{v}" for v in values[taken]]
    assert texts[taken].documents == [f"d{v}" for v in values[taken]]
    assert texts[taken] == Texts(values, texts.sources, texts.documents)[taken]
    if -len(values) <= place < len(values):
        assert texts[place] == texts[np.int64(place)] == texts.texts[place] == values[place]
    else:
        with pytest.raises(IndexError):
            texts[place]


def test_columns_compare_as_sequences():
    assert corpus().train.sources == ["a", "b"] and corpus().train.sources != ["a"]
    assert corpus().train != corpus().eval and corpus().train != ["one.", "zwei\n"]
    assert repr(corpus().train) == "Texts(2 texts of 2 sources)"


def test_a_lone_surrogate_is_named():
    with pytest.raises(InputError, match=r"ud800.*encode") as error:
        Texts(["good", "bad \ud800"])
    assert "\n" not in str(error.value)


@given(st.lists(TEXT), st.lists(TEXT))
def test_hash_tells_texts_apart(a, b):
    assert (Texts(a).hash == Texts(b).hash) == (a == b)


def test_hash_by_hand():
    expected = hashlib.sha256(b"2\nab3\n\xe2\x82\xac").hexdigest()
    assert Texts(["ab", "€"]).hash == expected
    assert Texts(["ab", "€"]).hash != Texts(["€", "ab"]).hash


def test_lengths_must_agree():
    with pytest.raises(InputError, match="2 texts, 1 sources"):
        Texts(["a", "b"], ["s"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT)), st.lists(st.tuples(TEXT, TEXT, TEXT)))
def test_round_trip(tmp_path_factory, train, evaluation):
    folder = tmp_path_factory.mktemp("c")
    halves = [
        Texts([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
        for rows in (train, evaluation)
    ]
    before = Corpus(halves[0], halves[1], {"unique": {"a": 1}}, {"seed": 1})
    before.save(folder)
    after = Corpus.load(folder)
    assert (after.train, after.eval) == (before.train, before.eval)
    assert (after.counts, after.meta, after.hash) == (before.counts, before.meta, before.hash)


def test_files(tmp_path):
    corpus().save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {p.name for p in folder.iterdir()} == {"corpus.parquet", "corpus.json"}
    table = pq.read_table(folder / "corpus.parquet")
    assert table.column_names == ["text", "source", "document", "split"]
    assert table["split"].to_pylist() == ["train", "train", "eval"]
    card = json.loads((folder / "corpus.json").read_text("utf-8"))
    assert card["hash"] == corpus().hash and card["counts"] == {"unique": {"a": 2, "b": 1}}
    assert card["characters"]["max"] == 5 and card["characters"]["mean"] == pytest.approx(4)


def test_a_million_characters_in_few_objects(tmp_path):
    texts = Texts([f"text {i % 7} {'x' * (i % 200)} {i}" for i in range(150_000)], ["a"] * 150_000)
    halves = Corpus(texts[:100_000], texts[100_000:])
    halves.save(tmp_path)
    file = pq.ParquetFile(tmp_path / "corpus.parquet")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert rows == [65536, 65536, 150_000 - 2 * 65536]
    loaded = Corpus.load(tmp_path)
    assert loaded.train == halves.train and loaded.eval == halves.eval
    assert loaded.train.table["text"].nbytes < 1.2 * sum(map(len, halves.train)) + 8 * 100_000
    # The bytes do not tell how the rows came: in pieces, encoded or not.
    before = (tmp_path / "corpus.parquet").read_bytes()
    pieces = [halves.train.table.slice(i, 999) for i in range(0, 100_000, 999)]
    again = Corpus(Texts.of_table(pa.concat_tables(pieces)), loaded.eval)
    assert (again.save(tmp_path / "again") / "corpus.parquet").read_bytes() == before


def test_the_bytes_of_a_file(tmp_path):
    """The same on any machine; another version of pyarrow may write others for the same texts."""
    corpus().save(tmp_path)
    card = json.loads((tmp_path / "corpus.json").read_text("utf-8"))
    table = hashlib.sha256((tmp_path / "corpus.parquet").read_bytes()).hexdigest()
    assert card.pop("file") == table and len(card.pop("sha256")) == 64
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == CARD
    names = pq.ParquetFile(tmp_path / "corpus.parquet").schema_arrow
    assert names.metadata is None and pq.read_metadata(tmp_path / "corpus.parquet").metadata is None


def test_nothing_to_load(tmp_path):
    with pytest.raises(InputError, match=r"corpus\.parquet"):
        Corpus.load(tmp_path)


@pytest.mark.parametrize("name", ["corpus.parquet", "corpus.json"])
def test_damaged_files(tmp_path, name):
    corpus().save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    with pytest.raises(InputError, match="Could not read .* Build it again"):
        Corpus.load(tmp_path)


def test_files_that_do_not_belong_together(tmp_path):
    corpus().save(tmp_path / "a")
    Corpus(Texts(["other"]), Texts([])).save(tmp_path / "b")
    (tmp_path / "b" / "corpus.parquet").replace(tmp_path / "a" / "corpus.parquet")
    with pytest.raises(InputError, match="hash"):
        Corpus.load(tmp_path / "a")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Expected to write"):
        corpus().save(tmp_path / "file")
