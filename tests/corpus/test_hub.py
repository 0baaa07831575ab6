"""Hub data sets: `datasets` on folders laid out as theirs, and over HTTP from a small hub."""

import json
import os
import subprocess
import sys

import pytest
import zstandard

from atlas_jax.corpus import build_corpus
from atlas_jax.corpus.hub import HubName, commit, hub
from atlas_jax.errors import InputError

ROWS = [
    {"text": f"Text {i} has a sentence. And one more.", "meta": {"pile_set_name": name}}
    for i, name in enumerate(["Pile-CC", "ArXiv", "Pile-CC", "Github"])
]


def fails(match, *arguments, **options):
    with pytest.raises(InputError, match=match) as error:
        list(hub(*arguments, **options))
    assert "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", tmp_path / "modules")


@pytest.fixture
def pile(tmp_path):
    """The files of the Pile's copies on the hub: a folder for one split, files for the others."""
    folder = tmp_path / "pile"
    (folder / "train").mkdir(parents=True)
    for name, rows in {
        "train/00": ROWS[:1],
        "train/01": ROWS[1:2],
        "test": ROWS,
        "val": [],
    }.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        content = zstandard.ZstdCompressor().compress(lines.encode())
        (folder / f"{name}.jsonl.zst").write_bytes(content)
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    return folder


def test_a_split_that_is_a_file_beside_a_folder(pile):
    assert [d.source for d in hub(str(pile), "test")] == ["Pile-CC", "ArXiv", "Pile-CC", "Github"]
    assert [d.text for d in hub(str(pile), "test")] == [row["text"] for row in ROWS]
    assert [d.source for d in hub(str(pile), "train")] == ["Pile-CC", "ArXiv"]


def test_splits_and_columns_that_are_not_there(pile):
    fails(r"'tset' of the hub .* Bad split: tset. Available splits: \['train'\]", str(pile), "tset")
    fails(r"Expected body in .*got the columns text, meta", str(pile), "test", text_column="body")
    fails("Expected origin in .*got the columns", str(pile), "test", source_column="origin")


def test_splits_known_by_their_files(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for split, rows in {"train": ROWS[:3], "test": ROWS[3:]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    assert [d.source for d in hub(str(folder), "test")] == ["Github"]
    fails(r"Available splits: \['train', 'test'\]", str(folder), "validation")
    fails("BuilderConfig 'small' not found", f"{folder}:small", "test")


def test_files_that_are_damaged(pile):
    content = (pile / "test.jsonl.zst").read_bytes()
    (pile / "test.jsonl.zst").write_bytes(content[:20] + b"garbage" + content[27:])
    fails("Expected the split 'test' of the hub data set", str(pile), "test")


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("owner/pile", ("owner/pile", None, None)),
        ("owner/pile:small", ("owner/pile", None, "small")),
        ("owner/pile@v1", ("owner/pile", "v1", None)),
        ("owner/pile@v1:small", ("owner/pile", "v1", "small")),
    ],
)
def test_names(name, parsed):
    assert HubName.parse(name) == parsed


def test_names_are_passed_on(monkeypatch):
    asked = {}

    def load_dataset(path, configuration, **options):
        asked.update(path=path, configuration=configuration, **options)
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(list(hub("owner/pile@v1:small", "test"))) == 4
    expected = {"split": "test", "revision": "v1", "streaming": True}
    assert asked == {"path": "owner/pile", "configuration": "small", **expected}
    list(hub("owner/pile@v1:small", "test", revision="abc"))
    assert asked["revision"] == "abc"


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nmore"), RuntimeError(), Exception("\n odd\n")]
)
def test_whatever_a_stream_raises_is_one_line(monkeypatch, error):
    def load_dataset(*_, **__):
        yield from ROWS[:2]
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    words = str(error).split()
    fails(words[0] if words else "RuntimeError", "owner/pile", "test")
    with pytest.raises(InputError, match="offline|cannot be|got: "):  # the tests are offline
        commit("owner/pile")


# Another process, as the hub's address is read when its client is imported.
CLIENT = """
import sys
from atlas_jax.corpus import build_corpus
from atlas_jax.errors import InputError
for name, split in [("owner/pile", "test"), ("owner/pile@v1", "test"), ("owner/none", "test"),
                    ("owner/gated", "test"), ("owner/pile@gone", "test"), ("owner/pile", "tset")]:
    try:
        corpus = build_corpus(name, split=split, percentiles=(0, 100))
        print(corpus.hash, corpus.meta["revision"], len(corpus.counts["documents"]))
    except InputError as error:
        print(error)
"""


@pytest.mark.download
def test_a_hub_over_http(pile, tmp_path, hub_server):
    address = hub_server({"owner/pile": pile}, gated=["owner/gated"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", CLIENT], env=environment, capture_output=True, text=True, check=False
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 6, result.stderr
    expected = build_corpus(pile / "test.jsonl.zst", percentiles=(0, 100))
    assert lines[0] == lines[1] == f"{expected.hash} {'c' * 40} 3"
    assert "hub data set 'owner/none', got: there is none of this name" in lines[2]
    assert "accept the terms" in lines[3]
    assert "no such revision" in lines[4]
    assert "Bad split: tset. Available splits: ['train']" in lines[5]
