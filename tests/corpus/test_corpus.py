"""Texts and Corpus: sequences, hashes, files."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.corpus import Corpus, Texts
from atlas_jax.errors import InputError

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


def test_nothing_to_load(tmp_path):
    with pytest.raises(InputError, match=r"corpus\.parquet"):
        Corpus.load(tmp_path)


@pytest.mark.parametrize("name", ["corpus.parquet", "corpus.json"])
def test_damaged_files(tmp_path, name):
    corpus().save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    with pytest.raises(InputError, match="could not read"):
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
