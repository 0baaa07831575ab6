"""`atlas-jax doctor`, and the completion that typer brings."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.cli.doctor import slow

RUNNER = CliRunner()
TOKEN = "hf_never_to_be_shown"
FAST = {
    "accelerator": True,
    "cores": 16,
    "memory_free_gb": 100.0,
    "disk_free_gb": 100.0,
    "compiled_programs": 3,
    "hub_token": "yes",
    "assets": {"a": {"mb": 7, "fetched": True}},
}


def test_it_tells_facts_and_never_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_JAX_CACHE", str(tmp_path))
    (tmp_path / "gemma-3-270m").mkdir()
    (tmp_path / "gemma-3-270m" / "weights").write_bytes(b"0" * 30_000_000)
    for token, expected in ((TOKEN, "yes"), ("", "no")):
        monkeypatch.setenv("HF_TOKEN", token)
        if not token:
            monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        result = RUNNER.invoke(app, ["doctor", "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["hub_token"] == expected and TOKEN not in result.output
    assert found["cache_gb"] == 0.03 and found["cache"] == str(tmp_path)
    assert found["cores"] >= 1 and 0 < found["memory_free_gb"] <= found["memory_gb"]
    assert not found["accelerator"] and len(found["devices"]) == 8
    assert {"jax", "jaxlib", "python"} <= set(found["versions"])
    assert any("no accelerator" in sentence for sentence in found["slow"])
    assert found["assets"]["gemma-3-270m"]["fetched"]
    shown = RUNNER.invoke(app, ["doctor"]).stdout
    for sentence in found["slow"]:
        assert f"slow: {sentence.split('.')[0][:40]}" in shown


@pytest.mark.parametrize(
    ("change", "environment", "part"),
    [
        ({"accelerator": False}, {}, "no accelerator"),
        ({"accelerator": False, "cores": 2}, {}, "2 core(s) only"),
        ({}, {"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS=1 leaves"),
        ({"memory_free_gb": 3.0}, {}, "3.0 GB are free, and quickstart"),
        ({"disk_free_gb": 1.0}, {}, "ATLAS_JAX_CACHE"),
        ({"compiled_programs": 0}, {}, "compiles its programs"),
        ({"hub_token": "no"}, {}, "hf auth login"),
        ({"assets": {"a": {"mb": 7, "fetched": False}}}, {}, "7 MB of assets"),
    ],
)
def test_each_reason_is_told_when_it_holds(change, environment, part):
    assert slow(FAST, {"OMP_NUM_THREADS": "64"}, nvidia=True) == []
    said = slow(FAST | change, environment, nvidia=False)
    assert any(part in sentence for sentence in said)


def test_a_gpu_that_jax_does_not_use_is_told():
    (said,) = slow(FAST | {"accelerator": False}, {}, nvidia=True)
    assert "jax[cuda" in said


def test_completion_is_shown_and_completes(monkeypatch):
    monkeypatch.setenv("SHELL", shutil.which("bash") or "/bin/bash")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = RUNNER.invoke(app, ["--show-completion", "bash"], prog_name="atlas-jax")
    assert shown.exit_code == 0 and "_ATLAS_JAX_COMPLETE" in shown.stdout
    environment = {
        "_ATLAS_JAX_COMPLETE": "complete_bash",
        "COMP_WORDS": "atlas-jax export v",
        "COMP_CWORD": "2",
    }
    done = RUNNER.invoke(app, [], prog_name="atlas-jax", env=environment)
    assert done.stdout.split() == ["vector"]
