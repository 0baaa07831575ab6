"""Labels: every file they come in, and what is refused."""

import gzip

import pytest

from atlas_jax.atlas.labels import Labels
from atlas_jax.errors import InputError

LINES = (
    '{"feature": 7, "description": "ships"}\n\n'
    '{"index": "3", "description": "war  and\\n peace", "modelId": "m"}\n'
    '{"index": "7", "description": "the navy"}\n'
    '{"index": "4", "description": null}\n'
    '{"index": "7", "description": "ships"}\n'
)
WANTED = {7: ("ships", "the navy"), 3: ("war and peace",)}


def test_jsonl_gz_and_folders(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    assert Labels.load(tmp_path / "a.jsonl").descriptions == WANTED
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(LINES)
    assert Labels.load(tmp_path / "b.jsonl.gz").descriptions == WANTED
    assert Labels.load(tmp_path).descriptions == WANTED


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_text('index,label\n7,ships\n3,"war, and peace"\n7,the navy\n')
    labels = Labels.load(tmp_path / "a.csv")
    assert labels.descriptions == {7: ("ships", "the navy"), 3: ("war, and peace",)}
    assert labels[7] == ("ships", "the navy") and labels[8] == ()
    assert labels.coverage(8) == 0.25


def test_round_trip(tmp_path):
    labels = Labels.of([(1, "naïve “quotes”"), (1, "b"), (0, "c")])
    labels.save(tmp_path / "x" / "l.jsonl")
    assert Labels.load(tmp_path / "x" / "l.jsonl") == labels
    assert list(labels.pairs()) == [(0, "c"), (1, "naïve “quotes”"), (1, "b")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"feature": 1, "description": "x"}\n{"feature": 1,', "line 2"),
        ("a.jsonl", '{"description": "x"}', "'feature' or 'index'.*line 1"),
        ("a.jsonl", '{"feature": 1, "text": "x"}', "'description' or 'label'"),
        ("a.jsonl", '{"feature": "one", "description": "x"}', "'one'"),
        ("a.jsonl", '{"feature": -1, "description": "x"}', "-1"),
        ("a.jsonl", "[1]", "JSON object"),
        ("a.txt", "x", "a.txt"),
        ("a.jsonl.gz", "not gzip", "Could not read"),
        ("a.csv", "feature,description\nx,y\n", "line 2"),
    ],
)
def test_refusals(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words) as error:
        Labels.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_missing_files_and_wrong_atlas(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Labels.load(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="found none"):
        Labels.load(tmp_path)
    with pytest.raises(InputError, match="feature 7"):
        Labels.of([(7, "ships")]).check(5)
