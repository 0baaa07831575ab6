"""The command line: the whole pipeline on tiny models, and one line for each wrong input."""

import json
import re

import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app

RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    result = invoke("--debug", "quickstart", "--smoke", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_every_stage_is_shown(smoke):
    _, output = smoke
    assert re.findall(r"\[(\d)/9\]", output) == list("123456789")
    for word in ("covariance", "procrustes", "random directions", "AP base rate", "unsteered"):
        assert word in output
    assert "report.html" in output


def test_the_run_folder_holds_everything(smoke):
    folder, _ = smoke
    result = json.loads((folder / "report.json").read_text())
    layers = result["quality"]["layers"]
    assert list(layers) == [f"blocks.{i}.mlp.hook_post" for i in (1, 2, 4)]
    for methods in layers.values():
        assert set(methods) == {
            "covariance",
            "correlation",
            "linear_regression",
            "procrustes",
            "semantic_lens",
            "random",
        }
        # Both random models read the same tokens: there is signal, and chance has none.
        assert methods["covariance"]["auroc"][0] > methods["random"]["auroc"][2]
        for values in methods.values():
            assert 0 <= values["auroc"][1] <= values["auroc"][0] <= values["auroc"][2] <= 1
    sizes = [point["n"] for point in result["learning_curve"]]
    assert sizes == [22, 45, 90, 180]
    neurons = result["queries"][0]["neurons"]
    scores = [neuron["score"] for neuron in neurons]
    assert scores == sorted(scores, reverse=True) and len(neurons) == 5
    for neuron in neurons:
        acts = [sample["activation"] for sample in neuron["samples"]]
        assert acts == sorted(acts, reverse=True) and len(acts) == 3
        for sample in neuron["samples"]:
            assert len(sample["tokens"]) == len(sample["heat"]) and max(sample["heat"]) <= 1
    outputs = result["steering"][0]["outputs"]
    assert [o["strength"] for o in outputs] == [0, 1, 4, 1, 4]
    assert len(outputs[-1]["sites"]) == 3
    page = (folder / "report.html").read_text()
    assert "procrustes" in page and "http://" not in page.replace("http://www.w3.org", "")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"corpus", "fit", "evaluate", "identify", "steer"} <= set(manifest["stages"])
    assert len(list((folder / "translations").rglob("*.safetensors"))) == 15


def test_a_second_run_computes_nothing(smoke, monkeypatch):
    from atlas_jax.pipeline import concepts, stages

    folder, _ = smoke
    before = json.loads((folder / "report.json").read_text())
    for name in ("fit", "evaluate_translation", "evaluate_retrieval", "build_corpus"):
        monkeypatch.setattr(stages, name, None)
    for name in ("identify", "generate"):
        monkeypatch.setattr(concepts, name, None)
    result = invoke("--debug", "quickstart", "--smoke", "--out", folder, "--json")
    assert result.exit_code == 0, result.output
    after = json.loads(result.output)
    assert after["quality"] == before["quality"] and after["queries"] == before["queries"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.toml"], "Expected a recipe file"),
        (["run", "quickstart", "--set", "fit.methods=['cca']"], "got cca"),
        (["run", "quickstart", "--set", "corpus.sequences"], "--set key=value"),
        (["run", "quickstart", "--set", "corpus.size=3"], "got 'corpus.size'"),
        (["run", "quickstart", "--set", "identify.method=ridge"], "fitted"),
        (["quickstart", "--query", "  "], "empty text"),
        (["quickstart", "--smoke", "--query", "ships"], "leave --smoke out"),
        (["atlas", "show", "3", "--search", "sea"], "got both"),
        (["atlas", "show", "3", "--atlas", "nowhere"], "got 'nowhere'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    out = ["--out", tmp_path / "run"] if arguments[0] in ("run", "quickstart") else []
    result = invoke(*arguments, *out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("atlas-jax: ")
    assert not (tmp_path / "run" / "report.html").exists()


def test_an_unknown_site_names_the_range(smoke, tmp_path):
    folder, _ = smoke
    settings = {
        "subject.model": json.dumps(str(folder / "models" / "subject")),
        "subject.sites": '["blocks.99.mlp.hook_post"]',
        "atlas.reference": json.dumps(str(folder / "models" / "atlas")),
    }
    changes = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
    result = invoke("run", "quickstart", *changes, "--out", tmp_path)
    assert result.exit_code == 2
    assert "blocks.0 to blocks.5" in result.stderr and "blocks.99" in result.stderr


def test_help_shows_an_example():
    for command in (["quickstart"], ["run"], ["atlas", "train"], ["atlas", "label"]):
        result = invoke(*command, "--help")
        assert result.exit_code == 0 and "Example: atlas-jax" in result.output


def test_doctor():
    result = invoke("doctor", "--json")
    found = json.loads(result.output)
    assert found["devices"] and "gemma-3-270m" in found["assets"]
    assert invoke("doctor").exit_code == 0


def test_a_failure_of_ours_is_one_line_and_exit_code_1(monkeypatch, tmp_path):
    from atlas_jax.pipeline import recipe

    monkeypatch.setattr(recipe, "load_recipe", lambda name: 1 / 0)
    result = invoke("run", "quickstart", "--out", tmp_path)
    assert result.exit_code == 1 and "ZeroDivisionError" in result.stderr
    assert result.stderr.count("\n") == 1
