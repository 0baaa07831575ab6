"""`atlas-jax capture`: records, reports, stops cleanly, refuses in one line."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.activations import ActivationStore
from atlas_jax.cli.app import app
from atlas_jax.corpus import Corpus, Texts
from atlas_jax.models import LanguageModel

SITES = ("blocks.0.mlp.hook_post", "blocks.1.hook_resid_post")


@pytest.fixture
def corpus(sentences, tmp_path):
    texts = [f"{a} {b}" for a in sentences for b in sentences]
    return Corpus(Texts(texts[:24]), Texts(texts[24:])).save(tmp_path / "corpus")


@pytest.fixture
def invoke(tiny_llama, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))

    def run(*arguments, out="s"):
        given = ["capture", tiny_llama, "--corpus", corpus, "--out", tmp_path / out]
        command = [str(part) for part in [*given, "--sites", ",".join(SITES), *arguments]]
        monkeypatch.setattr(sys, "argv", ["/somewhere/atlas-jax", *command])
        return CliRunner().invoke(app, command)

    return run


def test_it_records_and_says_what_limited(invoke, tmp_path):
    result = invoke("--pool", "max,mean", "--limit", 10, "--top", 3, "--split", 2)
    assert result.exit_code == 0, result.output
    assert "10 texts" in result.stdout and "limit: the forward pass" in result.stdout
    store = ActivationStore.open(tmp_path / "s")
    assert store.sites == SITES and store.pools(SITES[0]) == ("max", "mean")
    assert (store[SITES[0], "max"][:] >= store[SITES[0], "mean"][:]).all()
    assert len(list((tmp_path / "s" / "top").rglob("*.npz"))) == 4


def test_json_and_nothing_else(invoke, tmp_path):
    result = invoke("--half", "eval", "--pool", "tokens", "--store-dtype", "float16", "--json")
    found = json.loads(result.stdout)
    assert found["n"] == 12 and found["sites"][SITES[1]]["dtype"] == "float16"
    assert found["report"][0]["texts"] == 12 and found["report"][0]["padding"] < 0.5
    rows = ActivationStore.open(tmp_path / "s")[SITES[1]]
    assert rows.shape[0] == found["tokens"] and rows.dtype == np.float16


def test_an_interruption_ends_with_what_to_type(invoke, monkeypatch, tmp_path):
    inner, calls = LanguageModel.read, []

    def read(*arguments, **settings):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return inner(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "read", read)
        stopped = invoke("--batch-tokens", "64")
    assert stopped.exit_code == 130
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("atlas-jax: stopped; 0 of 1 parts are on disk. To go on: atlas-jax ")
    assert f"--out {tmp_path}/s --sites {','.join(SITES)} --batch-tokens 64" in last
    assert invoke("--batch-tokens", "64").exit_code == 0


def test_wrong_input_is_one_line(invoke):
    for match, *arguments in [
        ("train or eval, got 'both'", "--half", "both"),
        ("among max, mean, absmax, last, tokens, got 'sum'", "--pool", "sum"),
        ("Expected --coordinator HOST:PORT for 2 processes", "--processes", "2"),
        ("number of devices, 8, got 2 * 3", "--split", "3"),
        ("among float32, bfloat16, float16, got 'int4'", "--store-dtype", "int4"),
    ]:
        result = invoke(*arguments, out="bad")
        assert result.exit_code == 2 and match in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
