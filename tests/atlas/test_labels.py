"""Labels: every file they come in, and what is refused."""

import gzip
import json

import pytest

from atlas_jax.atlas.labels import Label, Labels
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
    assert [(f, label.text) for f, label in labels.pairs()] == [
        (0, "c"),
        (1, "naïve “quotes”"),
        (1, "b"),
    ]


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


EXPORT = {
    "modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "index": "7",
    "typeName": "np_max-act", "embedding": "[0.1]",
}  # fmt: skip


def export(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(EXPORT | row) + "\n" for row in rows)


def test_neuronpedia_batches_in_folders(tmp_path):
    old = {"description": "boats", "createdAt": "2024-08-01T00:00:00.000Z"}
    new = {"description": "ships", "createdAt": "2025-01-01T00:00:00.000Z"}
    export(tmp_path / "20" / "explanations" / "batch-0.jsonl.gz", old, {"index": "3", **old})
    export(tmp_path / "20" / "explanations" / "batch-1.jsonl.gz", new, old)
    labels = Labels.load(tmp_path)
    assert labels.descriptions == {7: ("ships", "boats"), 3: ("boats",)}  # the newest leads
    assert labels.origin == "gemma-2-2b/20-gemmascope-res-16k"
    assert labels.features[7][0] == Label("ships", "np_max-act")


def test_scores_choose_the_best(tmp_path):
    rows = [("a", None, ""), ("b", 0.6, "gpt"), ("c", 0.9, "gpt"), ("a", 1.0, "")]
    labels = Labels.of((1, Label(text, source, score)) for text, score, source in rows)
    assert labels[1] == ("c", "b", "a")
    labels.save(tmp_path / "l.jsonl")
    again = Labels.load(tmp_path / "l.jsonl")
    assert again.features == labels.features and again.features[1][1].score == 0.6
    assert '"score"' not in (tmp_path / "l.jsonl").read_text().splitlines()[2]
    (tmp_path / "m.jsonl").write_text('{"feature": 1, "description": "x", "score": "high"}')
    with pytest.raises(InputError, match="number as score.*line 1, got 'high'"):
        Labels.load(tmp_path / "m.jsonl")


def test_two_sources_may_agree(tmp_path):
    labels = Labels.of([(1, Label("ships", "gpt", 0.5)), (1, Label("ships", "words", 0.5))])
    labels.save(tmp_path / "l.jsonl")
    assert Labels.load(tmp_path / "l.jsonl").features == labels.features
    assert len(labels.features[1]) == 2 and labels[1] == ("ships",)


def test_one_autoencoder_at_a_time(tmp_path):
    export(tmp_path / "a.jsonl.gz", {"description": "ships"})
    export(tmp_path / "b.jsonl.gz", {"description": "taxes", "layer": "21-gemmascope-res-16k"})
    with pytest.raises(InputError, match="one autoencoder.*those of 2: gemma-2-2b/20-"):
        Labels.load(tmp_path)
    chosen = Labels.load(tmp_path, "gemma-2-2b/21-gemmascope-res-16k")
    assert chosen.descriptions == {7: ("taxes",)}
    chosen.check_origin("")
    with pytest.raises(InputError, match="labels of m/x, got labels of gemma-2-2b/21"):
        chosen.check_origin("m/x")


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"index": ["7", "3", "7", "4"], "description": ["ships", "war", "the navy", None]}
    pq.write_table(pa.table({**columns, "embedding": [[0.5]] * 4}), tmp_path / "a.parquet")
    assert Labels.load(tmp_path).descriptions == {7: ("ships", "the navy"), 3: ("war",)}
    pq.write_table(pa.table({"index": [1], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'feature' and 'description' in a.parquet, got index"):
        Labels.load(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="Could not read a.parquet"):
        Labels.load(tmp_path)
