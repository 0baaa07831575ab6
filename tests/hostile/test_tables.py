"""Rows and records: labels, texts, sets, queries, recipes, journals, ledgers, results, answers."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.assets.cache import Ledger
from atlas_jax.assets.catalogue import ASSETS
from atlas_jax.atlas.labels import Labels
from atlas_jax.corpus import Corpus, Texts
from atlas_jax.corpus.local import local
from atlas_jax.errors import InputError
from atlas_jax.evaluate.concept_sets import read_sets, write_sets
from atlas_jax.evaluate.judges_endpoint import parse_ratings
from atlas_jax.evaluate.set_writer import parse_texts
from atlas_jax.explorer.link import Place
from atlas_jax.explorer.results import read_comparison, read_lift
from atlas_jax.journal import Journal
from atlas_jax.pipeline.lift_recipe import load_lift_recipe
from atlas_jax.pipeline.recipe import Recipe, load_recipe
from atlas_jax.pipeline.run import Run
from atlas_jax.pipeline.run_folder import RunFolder
from atlas_jax.query import Query

from .mutations import NAMES, cases, misled, refused, spoiled, wrong

LABELS = [
    {"feature": 1, "description": "dogs", "score": 0.5, "source": "m"},
    {"index": "2", "label": "cats", "modelId": "a", "layer": "b", "createdAt": "2024"},
]
TEXTS = [{"text": "One text.", "meta": {"source": "book"}}, {"content": "Another.", "id": 3}]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


_LABEL_FILES = {
    "a.jsonl": lines(LABELS),
    "a.jsonl.gz": gzip.compress(lines(LABELS), mtime=0),
    "a.csv": table(LABELS[:1]),
    "a.parquet": parquet(LABELS[:1]),
}


@cases
@given(data=st.data(), name=st.sampled_from(sorted(_LABEL_FILES)))
def test_labels_of_any_bytes(folder, data, name):
    path = folder / name
    path.write_bytes(data.draw(spoiled(_LABEL_FILES[name])))
    refused(lambda: Labels.load(path).check(3))


@cases
@given(rows=misled(LABELS))
def test_labels_of_any_values(folder, rows):
    path = folder / "b.jsonl"
    path.write_bytes(lines(rows if isinstance(rows, list) else [rows]))
    refused(lambda: Labels.load(path).rows())


@pytest.mark.parametrize("name", NAMES)
def test_labels_under_any_name(name):
    refused(lambda: Labels.load(name + ".jsonl"))


def test_a_line_without_end_is_not_read_whole(folder):
    path = folder / "long.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"feature": 1, "description": "' + b"a" * (1 << 25)))
    assert "characters" in str(refused(lambda: Labels.load(path)))


_TEXT_FILES = {
    "t.jsonl": lines(TEXTS),
    "t.jsonl.gz": gzip.compress(lines(TEXTS), mtime=0),
    "t.jsonl.zst": pa.compress(lines(TEXTS), "zstd", asbytes=True),
    "t.csv": table(TEXTS[:1]),
    "t.parquet": parquet(TEXTS[:1]),
    "t.txt": b"One text.\n\nAnother.",
}


@cases
@given(data=st.data(), name=st.sampled_from(sorted(_TEXT_FILES)))
def test_texts_of_any_bytes(folder, data, name):
    path = folder / name
    path.write_bytes(data.draw(spoiled(_TEXT_FILES[name])))
    refused(lambda: list(local(path)))


@cases
@given(rows=misled(TEXTS))
def test_texts_of_any_values(folder, rows):
    path = folder / "u.jsonl"
    path.write_bytes(lines(rows if isinstance(rows, list) else [rows]))
    refused(lambda: [document.text.encode("utf-8", "replace") for document in local(path)])


@pytest.fixture(scope="module")
def saved(folder):
    corpus = Corpus(Texts(["One text."], ["a"]), Texts(["Another."], ["b"]), {"x": {"a": 1}}, {})
    corpus.save(folder / "corpus")
    return {path.name: path.read_bytes() for path in (folder / "corpus").iterdir()}


@cases
@given(data=st.data())
def test_a_corpus_of_any_bytes(folder, saved, data):
    name = data.draw(st.sampled_from(sorted(saved)))
    for each, content in saved.items():
        (folder / "corpus" / each).write_bytes(content)
    content = data.draw(spoiled(saved[name]))
    if name == "corpus.json" and data.draw(st.booleans()):
        content = json.dumps(data.draw(misled(json.loads(saved[name])))).encode()
    (folder / "corpus" / name).write_bytes(content)
    refused(lambda: Corpus.load(folder / "corpus"))


@cases
@given(rows=misled([{"feature": 1, "texts": ["One text."]}, {"feature": 2, "texts": ["Two."]}]))
def test_concept_sets_of_any_values(folder, rows):
    path = folder / "sets.jsonl"
    path.write_bytes(lines(rows if isinstance(rows, list) else [rows]))
    refused(lambda: read_sets(path))


def test_a_text_may_hold_any_line_break(folder):
    texts = {3: ["one\u2028two", "three\x85four", "five\nsix", "seven\x1ceight"]}
    assert read_sets(write_sets(folder / "breaks.jsonl", texts)) == texts
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe")
    assert refused(lambda: read_sets(folder / "bytes.jsonl"))


QUERY = {
    "format": "atlas-jax query 1",
    "name": "dogs",
    "atlas": "a",
    "n_features": 9,
    "features": [1, 2],
    "descriptions": ["dogs", "cats"],
    "weights": [1.0, 0.5],
    "vector": {"1": 1.0, "2": 0.5},
}


@cases
@given(content=misled(QUERY))
def test_a_query_of_any_values(folder, content):
    path = folder / "query.json"
    path.write_text(json.dumps(content))
    refused(lambda: repr(Query.load(path) + Query.load(path)))


@cases
@given(content=spoiled(json.dumps(QUERY).encode()))
def test_a_query_of_any_bytes(folder, content):
    path = folder / "query.json"
    path.write_bytes(content)
    refused(lambda: repr(Query.load(path)))


RECIPE = b"""name = "mine"
[subject]
model = "m"
also = ["n"]
sites = ["blocks.1.mlp.hook_post"]
[corpus]
sequences = 10
train_fraction = 0.5
[identify]
queries = ["dogs", {name = "cats", features = [1, 2], weights = [1.0, 0.5]}]
[steer]
strengths = [1.0, 2.0]
"""


@cases
@given(content=spoiled(RECIPE))
def test_a_recipe_of_any_bytes(folder, content):
    path = folder / "recipe.toml"
    path.write_bytes(content)
    refused(lambda: load_recipe(path).subjects())
    refused(lambda: load_lift_recipe(path))


@cases
@given(data=misled(Recipe().to_dict()))
def test_settings_of_any_values(folder, data):
    (folder / "manifest.json").write_text(json.dumps({"recipe": data}))
    refused(lambda: RunFolder(folder).recipe["subject"]["model"].lower())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("__proto__", "line\nbreak")])
def test_a_recipe_names_no_folder_elsewhere(name):
    refused(lambda: load_recipe(name))
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", "..") or len(name) > 200:
        assert refused(lambda: Recipe().with_values({"name": name}))
    refused(lambda: Recipe().with_values({"subject.also": [name]}).subjects())


@pytest.mark.parametrize("text", ["a = " + "[" * 9000, "a = 1" + "0" * 9000, "[a]\n[a]", "\ud800"])
def test_toml_that_is_none(folder, text):
    (folder / "bad.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refused(lambda: load_recipe(folder / "bad.toml"))


@cases
@given(manifest=misled({"recipe": {}, "stages": {"fit": {"key": "a", "seconds": 1.0}}}))
def test_a_manifest_of_any_values(folder, manifest):
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = Run(folder, Recipe(), print)
    assert run.stage("fit", {}, lambda: 1, lambda: 2) in (1, 2)
    refused(lambda: RunFolder(folder))


@cases
@given(content=spoiled(b'{"id": "a", "texts": ["x"]}\n{"id": "b", "rating": 1}\n'))
def test_a_journal_of_any_bytes(folder, content):
    path = folder / "journal.jsonl"
    path.write_bytes(content)

    def read():
        with Journal(path) as journal:
            assert all(key in journal for key in journal.rows)

    refused(read)


ASSET = next(iter(ASSETS.values()))


@cases
@given(data=st.data(), name=st.sampled_from(NAMES) | st.just("inside.txt"))
def test_a_ledger_removes_nothing_elsewhere(folder, data, name):
    inner = folder / "assets"
    inner.mkdir(exist_ok=True)
    outer = folder / "x"
    outer.write_text("kept")
    (inner / "inside.txt").write_text("damaged")
    identity = Ledger(inner, ASSET).identity
    record = {"sha256": "0", "size": 1, "mtime_ns": 1}
    ledger = {"identity": identity, "packages": {"p": {name: record, "../x": record}}}
    if data.draw(st.booleans()):
        ledger = data.draw(misled(ledger))
    (inner / "asset.json").write_text(json.dumps(ledger))
    found = Ledger(inner, ASSET)
    found.complete(), found.intact()
    assert outer.read_text() == "kept"


LIFT = {
    "figures": {"lift_spec": {"mean": 0.1, "low": 0.0, "high": 0.2}},
    "bridge": {"source": {"model": "a", "site": "s"}, "target": {"model": "b", "site": "t"}},
    "features": [{"name": "f", "native": ["x"], "foreign": ["y"], "lift_spec": 0.1}],
}
REPORT = {
    "quality": {"layers": {"s": {"procrustes": {"auroc": [0.5, 0.4, 0.6]}}}},
    "retrieval": {"s": {"top1": 0.1}},
    "learning_curve": [{"n": 1, "site": "s", "methods": {"a": {"ap": 0.1}}}],
}


@cases
@given(lift=misled(LIFT), report=misled(REPORT))
def test_results_of_any_values(folder, lift, report):
    (folder / "lift.json").write_text(json.dumps(lift))
    (folder / "report.json").write_text(json.dumps(report))

    def read():
        found = read_lift(folder)
        assert found is None or found.matching("no such words") == ()

    refused(read)
    refused(lambda: read_comparison(folder))


_KEYS = ("tab", "q", "atlas", "site", "method", "feature", "heat")


@cases
@given(query=st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(NAMES) | st.text()))
def test_links_of_any_text(query):
    place = Place.read(query, ("a", "b"), ("m",))
    assert Place.read({}, ("a",), ("m",)) == Place() and place.site in ("", "a", "b")
    place.link().encode("utf-8", "surrogatepass") if "\ud800" not in place.text else None


_ANSWERS = (
    *('{"0": 2, "1": 0}', "```json\n{0: 1}\n```", '["a b", "c d"]', "{" * 9000, "[" * 99_000),
    *("-" * 99_000 + "1", "not " * 20_000 + "1", "a." * 40_000 + "a", "1+" * 40_000 + "1"),
    *(
        "(" * 99 + ")" * 99,
        '{"0": ' + "9" * 9000 + "}",
        "{'0': 1, **a}",
        "{0j: 1}",
        "\0",
        "{None:1}",
    ),
    *("[" + "[],", "lambda:" * 9000 + "1", "f'{" * 99, "{'²': 1}", '{"0": 1e999}', "b''" * 9000),
)


@cases
@given(answer=st.sampled_from(_ANSWERS) | st.text() | st.sampled_from(_ANSWERS).flatmap(
    lambda text: spoiled(text[:200].encode()).map(lambda b: b.decode("utf-8", "replace"))
))  # fmt: skip
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_judges_answers_of_any_text(answer):
    for parse in (parse_ratings, parse_texts):
        try:
            parse(answer, 2)
        except ValueError as error:
            assert not isinstance(error, InputError)


@cases
@given(value=wrong)
def test_a_value_in_a_message_stays_in_its_line(value):
    message = str(InputError(f"Expected a number, got {value}."))
    assert message.isprintable() and len(message) < 3000
    assert str(InputError("a\x1b[2Jb\u202ec\nd\ud800")) == "a\\x1b[2Jb\\u202ec d\\ud800"
