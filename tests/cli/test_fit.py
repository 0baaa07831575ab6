"""`atlas-jax fit` and `atlas-jax moments merge`."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.activations import ActivationStore
from atlas_jax.cli.app import app
from atlas_jax.errors import InputError
from atlas_jax.translate import Options, Translation, fit

RUNNER = CliRunner()
RNG = np.random.default_rng(9)
ATLAS = np.maximum(RNG.standard_normal((80, 10)) - 1, 0).astype(np.float32)
SUBJECT = RNG.standard_normal((80, 6)).astype(np.float32)
ALL = ("covariance", "ridge", "procrustes", "semantic_lens")
OPTIONS = Options(alpha="gcv", k=3)
FLAGS = [f for name in ALL for f in ("--method", name)] + ["--alpha", "gcv", "--k", 3]


class Site:
    """A recorded site."""

    def __init__(self, site, array, texts):
        self.site, self.array, self.shape = site, array, array.shape
        self.meta = {"model": "m", "fingerprint": "f", "texts": texts, "pool": "max"}

    def __getitem__(self, rows):
        return self.array[rows]


class Store(dict):
    """A store of sites."""

    @property
    def sites(self):
        return tuple(self)


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    found = {}
    for name, rows, texts in (
        ("", slice(0, 80), "t"),
        (1, slice(0, 50), "t1"),
        (2, slice(50, 80), "t2"),
    ):
        found[f"s{name}"] = Store(
            a=Site("a", SUBJECT[rows], texts), b=Site("b", SUBJECT[rows, :3], texts)
        )
        found[f"c{name}"] = Store(c=Site("c", ATLAS[rows], texts))

    def opened(url):
        if url not in found:
            raise InputError(f"Expected an activation store at {url}, found none.")
        return found[url]

    monkeypatch.setattr(ActivationStore, "open", opened)
    return found


def invoke(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


def check(folder, sites="ab"):
    for site in sites:
        expected = fit(SUBJECT[:, : 6 if site == "a" else 3], ATLAS, ALL, options=OPTIONS)
        for name in ALL:
            found = Translation.load(folder / site / f"{name}.safetensors").matrix
            np.testing.assert_allclose(found, expected[name].matrix, atol=3e-5)


def test_fit_writes_translations_and_says_how(tmp_path):
    result = invoke("fit", "s", "c", "--out", tmp_path, *FLAGS)
    assert result.exit_code == 0, result.output
    check(tmp_path)
    assert "atlas rows on the host" in result.output and "chosen_by gcv" in result.output
    result = invoke("fit", "s", "c", "--out", tmp_path / "j", "--site", "b", "--json", *FLAGS)
    written = json.loads(result.stdout)
    assert [w["method"] for w in written] == list(ALL) and {w["site"] for w in written} == {"b"}
    check(tmp_path / "j", "b")


def test_runs_are_merged_and_fitted_from_moments(tmp_path):
    for i in (1, 2):
        folder = tmp_path / f"m{i}"
        result = invoke(
            "fit", f"s{i}", f"c{i}", "--out", tmp_path / "t", "--moments", folder, *FLAGS
        )
        assert result.exit_code == 0, result.output
    result = invoke("moments", "merge", tmp_path / "m1", tmp_path / "m2", "--out", tmp_path / "m")
    assert result.exit_code == 0 and "50 + 30 = 80 samples" in result.output, result.output
    arguments = ["fit", "-", "c1", "c2", "--moments", tmp_path / "m", "--out", tmp_path / "all"]
    result = invoke(*arguments, *FLAGS)
    assert result.exit_code == 0, result.output
    check(tmp_path / "all")
    merged = invoke("moments", "merge", tmp_path / "m1", tmp_path / "m2", "--out", tmp_path / "m")
    assert merged.exit_code == 2


def test_max_memory(tmp_path):
    result = invoke("fit", "s", "c", "--out", tmp_path, "--max-memory", "1KB", *FLAGS)
    assert result.exit_code == 0 and "3 pass(es)" in result.output, result.output
    check(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "Expected the stores of subject and atlas, or --moments"),
        (["fit", "s"], "Expected one atlas store"),
        (["fit", "s", "nothing"], "found none"),
        (["fit", "s", "c1"], "same samples as rows"),
        (["fit", "s", "c", "--method", "cca"], "among covariance"),
        (["fit", "s", "c", "--alpha", "loo"], "gcv or kfold, got 'loo'"),
        (["fit", "s", "c", "--max-memory", "much"], "such as 8GB"),
        (["moments", "merge", "x", "--out", "y"], "at least two folders"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [["fit"], ["moments", "merge"]])
def test_help_has_an_example(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0 and "Example: atlas-jax" in result.output
