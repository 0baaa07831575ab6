"""The paper's recipes: their content, and every stage of theirs on tiny stand-ins."""

import json
import shutil

import pytest

from atlas_jax.activations import ActivationStore
from atlas_jax.errors import InputError
from atlas_jax.pipeline import load_recipe, run_experiment
from atlas_jax.pipeline.experiment import STAGES
from atlas_jax.translate import METHODS


def test_the_16k_recipe_is_the_paper():
    recipe = load_recipe("paper_llama31_gemma16k")
    assert len({recipe.subject.model, *recipe.subject.also}) == 3
    layers = [int(site.split(".")[1]) for site in recipe.subject.sites]
    assert layers == [3, 12, 19, 25, 30]
    assert recipe.corpus.sequences == 1_000_000 and recipe.corpus.train_fraction == 0.5
    assert len(set(recipe.evaluate.chosen)) == 100 and sum(recipe.evaluate.chosen) == 696_209
    asked = recipe.evaluate_steering
    sizes = [len(query["features"]) for query in asked.queries]
    assert sizes == [14, 19, 25, 27, 33, 27, 34, 4, 29, 28]
    assert len(asked.prompts) == 16 and " " in asked.prompts
    assert "\\scalebox{0.85}{$\\mathcal{L} =" in asked.prompts
    assert asked.strengths == (-50, -10, -1, 0, 1, 10, 50)
    assert set(asked.methods) == set(recipe.fit.methods) <= set(METHODS)
    assert [query["name"] for query in recipe.identify.queries] == [
        "reddit comments",
        "dogs and cats",
        "london",
    ]
    assert recipe.retrieval.features == 454


def test_the_65k_recipe_is_the_second_half_of_table_4():
    recipe = load_recipe("paper_llama31_gemma65k")
    assert recipe.subject.model.endswith("8B-Instruct") and recipe.subject.also == ()
    assert recipe.subject.sites == ("blocks.19.mlp.hook_post",)
    assert "width_65k/average_l0_114" in recipe.atlas.reference
    assert recipe.fit == load_recipe("paper_llama31_gemma16k").fit


def test_every_stage_runs_for_every_subject(paper):
    recipe, folder, log = paper
    assert log.stages == list(STAGES.values()) * 2
    assert list(recipe.subjects()) == ["subject", "second"]
    for name in recipe.subjects():
        place = folder / name
        assert len(list(place.rglob("translations/*/*.safetensors"))) == 25
        assert (place / "report.html").exists()
        retrieval = json.loads((place / "reports" / "retrieval.json").read_text())
        assert list(retrieval) == list(recipe.subject.sites)
        assert all(2 <= r["n_features"] <= r["n_sets"] == 12 for r in retrieval.values())
        assert not (place / "activations" / "train" / "atlas").exists()
    assert any("evaluate steering" in line for line in log.lines)


def test_corpus_and_atlas_are_recorded_once(paper):
    _, folder, _ = paper
    shared = json.loads((folder / "manifest.json").read_text())["stages"]
    assert set(shared) == {"corpus", "capture train atlas", "capture eval atlas"}
    own = json.loads((folder / "second" / "manifest.json").read_text())["stages"]
    assert shared["capture train atlas"]["seconds"] > 0.05  # not the second subject's look at it
    assert not set(own) & set(shared) and {"fit", "evaluate", "retrieval", "steer"} <= set(own)
    both = [
        ActivationStore.open(folder / place / "activations" / "eval" / side)
        for place, side in (("second", "subject"), (".", "atlas"))
    ]
    assert both[0].meta["texts"] == both[1].meta["texts"]


def test_the_report_names_what_was_measured(paper, numbers):
    recipe, _, _ = paper
    assert numbers["quality"]["n_features"] == len(recipe.evaluate.chosen)
    assert [q["name"] for q in numbers["queries"]] == ["reddit comments", "dogs and cats", "london"]
    strengths = {o["strength"] for o in numbers["steering"][0]["outputs"]}
    assert strengths == {0, 35, 50}
    assert "capture train atlas" in numbers["timings"] and "fit" in numbers["timings"]


def test_one_stage_alone(paper, tmp_path, log, monkeypatch):
    from atlas_jax.pipeline import experiment

    recipe, folder, _ = paper
    recipe = recipe.with_values({"subject.also": []})
    place = tmp_path / "run"
    shutil.copytree(folder / "subject", place)
    shutil.copytree(folder / "activations", place / "activations", dirs_exist_ok=True)
    shutil.rmtree(place / "translations")
    monkeypatch.setattr(experiment, "load_model", None)  # none is needed
    monkeypatch.setattr(experiment, "load_atlas", None)
    with pytest.raises(InputError, match="stage 'fit' to be done .*--only fit"):
        run_experiment(recipe, place, log, only="evaluate")
    changed = recipe.with_values({"fit.methods": ["covariance", "procrustes"]})
    assert run_experiment(changed, place, log, only="fit") == place
    assert log.stages[-1] == "Translations"
    files = sorted(path.stem for path in (place / "translations").glob("*2*/*"))
    assert files == ["covariance", "procrustes"]
    before = (place / "reports" / "queries.json").stat().st_mtime_ns
    run_experiment(changed, place, log, only="evaluate")
    quality = json.loads((place / "reports" / "quality.json").read_text())["sites"]
    names = [row["method"] for row in next(iter(quality.values()))["methods"]]
    assert names == ["covariance", "procrustes", "random"]
    assert (place / "reports" / "queries.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="stage 'capture' to be done"):
        run_experiment(changed, tmp_path / "empty", log, only="fit")
    with pytest.raises(InputError, match="one of models, corpus.*got 'fits'"):
        run_experiment(changed, place, log, only="fits")
