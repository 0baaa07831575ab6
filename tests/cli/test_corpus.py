"""`atlas-jax corpus` and `corpus show`, from a file to the figures beside the paper's."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.corpus import Corpus, Texts

TALE = (
    "Dr. Smith went to the {0} market on day {1}. He bought {1} apples there! Was it e.g. for a "
    "pie, or for the {0} horse? Nobody knows about number {1}."
)


def command(*arguments: object):
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def tales(tmp_path, monkeypatch):
    rows = [
        {"text": TALE.format(s, i), "meta": {"pile_set_name": s}}
        for s in ("Pile-CC", "ArXiv")
        for i in range(30)
    ]
    (tmp_path / "tales.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.download
def test_build_and_build_again(tales):
    result = command("--source", "tales.jsonl", "-n", 40, "--seed", 3)
    assert result.exit_code == 0, result.output
    corpus = Corpus.load("corpora/tales.jsonl-40-3")
    assert (len(corpus.train), len(corpus.eval)) == (20, 20)
    assert corpus.counts["documents"] == {"ArXiv": 30, "Pile-CC": 30}
    lines = [line.split() for line in result.output.splitlines()]
    counts, shares = (line[1:] for line in lines if line[:1] == ["ArXiv"])
    stages = ("documents", "sentences", "length", "letters", "unique", "sampled")
    assert counts == [str(corpus.counts[stage]["ArXiv"]) for stage in stages]
    assert [shares[0], shares[-1]] == ["50.00%", f"{corpus.counts['sampled']['ArXiv'] / 40:.2%}"]
    total = next(line for line in lines if line[:1] == ["all"])
    assert total[1] == "60" and corpus.hash in result.output
    again = command("--source", "tales.jsonl", "-n", 40, "--seed", 3)
    assert again.exit_code == 0 and "holds this corpus" in again.output
    other = command("--source", "tales.jsonl", "-n", 40, "--out", "corpora/tales.jsonl-40-3")
    assert other.exit_code == 2 and "another seed" in other.stderr


@pytest.mark.download
def test_json_is_the_card(tales):
    result = command("--source", "tales.jsonl", "-n", 999, "--out", "c", "--json")
    assert json.loads(result.stdout) == json.loads((tales / "c" / "corpus.json").read_text("utf-8"))
    card = json.loads(result.stdout)
    assert card["meta"]["n"] == 999 and card["shares"]["documents"] == {
        "ArXiv": 0.5,
        "Pile-CC": 0.5,
    }
    assert sum(card["counts"]["sampled"].values()) < 999
    # What a damaged corpus says to do can be done.
    (tales / "c" / "corpus.parquet").write_bytes(b"")
    assert command("show", "c").exit_code == 2
    assert (
        command("--source", "tales.jsonl", "-n", 999, "--out", "c", "--json").stdout
        == result.stdout
    )


@pytest.mark.download
def test_too_few_is_said(tales):
    result = command("--source", "tales.jsonl", "-n", 999)
    assert "Expected 999 sentences from tales.jsonl, there are" in result.output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--source", "none.jsonl"], "check the path"),
        (["--source", "tales.jsonl", "--text-column", "body"], "got the columns text, meta"),
        (["--source", "tales.jsonl", "--percentiles", 90, 10], "two rising percentiles"),
        (["--source", "tales.jsonl", "--train-fraction", 2], "train_fraction"),
        (["--source", "owner/none"], "hub data set 'owner/none'"),
        (["show", "nowhere"], "build it first"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(tales, arguments, what):
    result = command(*arguments)
    assert result.exit_code == 2 and what in result.stderr and result.stderr.count("\n") == 1
    assert not (tales / "corpora").exists() or not list((tales / "corpora").iterdir())


def test_show(tmp_path, tiny_tokenizer):
    texts = ["A cat.", "Two dogs ran along.", "London lies on the Thames.", "Äh?"]
    Corpus(Texts(texts[:3], ["x"] * 3), Texts(texts[3:], ["y"])).save(tmp_path / "c")
    result = command("show", tmp_path / "c", "--tokenizer", tiny_tokenizer, "--json")
    found = json.loads(result.stdout)
    lengths = list(map(len, texts))
    assert found["characters"] == pytest.approx(
        {"mean": np.mean(lengths), "sd": np.std(lengths), "min": 3, "max": 26}
    )
    from transformers import AutoTokenizer

    tokens = [len(ids) for ids in AutoTokenizer.from_pretrained(tiny_tokenizer)(texts)["input_ids"]]
    expected = {
        "mean": np.mean(tokens),
        "sd": np.std(tokens),
        "min": min(tokens),
        "max": max(tokens),
    }
    assert found["tokens"] == pytest.approx(expected)
    assert (found["texts"], found["train"], found["eval"]) == (4, 3, 1)
    assert found["paper"]["characters"] == {"mean": 120.4, "sd": 72.5, "min": 2, "max": 391}
    table = command("show", tmp_path / "c", "--tokenizer", tiny_tokenizer).stdout
    assert "1,000,000" in table and "30.1" in table and f"{np.mean(tokens):.1f}" in table
    plain = command("show", tmp_path / "c").stdout
    assert "characters, sd" in plain and "tokens" not in plain


def test_show_without_a_tokenizer_there(tmp_path):
    Corpus(Texts(["A cat."]), Texts([])).save(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    result = command("show", tmp_path / "c", "--tokenizer", tmp_path / "empty")
    assert result.exit_code == 2 and "Could not read the tokenizer files" in result.stderr
