"""Run folders: a stage is done once, again when its inputs change, never half."""

import json

import pytest

from atlas_jax.errors import InputError
from atlas_jax.pipeline import run as module
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.pipeline.run import Run


def run_in(folder):
    return Run(folder, Recipe(), lambda text: None)


def stage(run, inputs, log, fail=False):
    def produce():
        log.append(inputs)
        if fail:
            raise RuntimeError
        run.write_json("numbers.json", {"inputs": inputs})
        return {"inputs": inputs}

    return run.stage("numbers", inputs, produce, lambda: run.read_json("numbers.json"))


def test_done_once_and_again_when_inputs_change(tmp_path):
    log = []
    assert stage(run_in(tmp_path), 1, log) == stage(run_in(tmp_path), 1, log) == {"inputs": 1}
    assert log == [1]
    stage(run_in(tmp_path), 2, log)
    assert log == [1, 2]
    assert stage(run_in(tmp_path), 1, log) == {"inputs": 1}
    assert log == [1, 2, 1]


def test_a_failed_stage_is_done_again(tmp_path):
    log = []
    stage(run_in(tmp_path), 1, log)
    with pytest.raises(RuntimeError):
        stage(run_in(tmp_path), 2, log, fail=True)
    stage(run_in(tmp_path), 2, log)
    assert log == [1, 2, 2]


def test_lost_or_damaged_results_are_made_again(tmp_path):
    log = []
    stage(run_in(tmp_path), 1, log)
    (tmp_path / "numbers.json").write_text('{"inp')
    assert stage(run_in(tmp_path), 1, log) == {"inputs": 1}
    (tmp_path / "numbers.json").unlink()
    stage(run_in(tmp_path), 1, log)
    (tmp_path / "manifest.json").write_text("not json")
    stage(run_in(tmp_path), 1, log)
    assert log == [1, 1, 1, 1]


def test_the_manifest_says_what_was_done(tmp_path):
    stage(run_in(tmp_path), 1, [])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["recipe"]["corpus"]["seed"] == 0
    assert set(manifest["stages"]["numbers"]) == {"key", "seconds", "finished"}
    assert manifest["versions"]["jax"][0].isdigit()
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Name another folder"):
        run_in(tmp_path / "file" / "run")


def test_a_folder_that_not_all_processes_see(tmp_path, monkeypatch):
    run_in(tmp_path).check_shared()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "leads", lambda: False)
    monkeypatch.setattr(module, "agree", lambda name, value: ".shared.1.2")
    with pytest.raises(InputError, match="folder that all processes see, got .* --out"):
        run_in(tmp_path).check_shared(patience=0.0)
    monkeypatch.setattr(module, "agree", lambda name, value: "done")
    with pytest.raises(InputError, match="folder that all processes see"):
        run_in(tmp_path).stage("fit", 1, dict, others="help")
