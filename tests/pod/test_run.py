"""`atlas-jax run` under a launcher: two processes leave the run folder that one leaves."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
from nltk.tokenize.punkt import PunktSentenceTokenizer

from atlas_jax.activations import ActivationStore
from atlas_jax.pipeline import run_experiment
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.pipeline.smoke import smoke_recipe
from atlas_jax.translate import Translation

LESS = {
    "corpus.sequences": 160,
    "fit.methods": ["covariance", "correlation"],  # top samples are ties here: rounding decides
    "evaluate.curve": False,
    "retrieval.features": 0,
    "identify.queries": [],
}


def sentences():
    """Alike in length, so that few shapes are compiled; no two are the same."""
    who = ("cat", "child", "baker", "sailor", "teacher", "river", "engine", "letter")
    does = ("follows", "answers", "carries", "forgets", "counts", "opens")
    what = ("the old bridge", "every number", "some warm bread", "the last train")
    return [f"The small {a} {b} {c} before noon today." for a, b, c in product(who, does, what)]


def texts_of(value):
    """All texts in some JSON, in order; numbers agree to rounding only."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in texts_of(part)]


def centred_rows(run, translation):
    """What a map was fitted on, in float64: each run's own rows, not the other's.

    Rows of the two agree to float32 rounding, of which the correlation of a feature that hardly
    varies makes any multiple. What varies by no more than that is constant: zero.
    """
    train = run / "activations" / "train"
    for side in ("subject", "atlas"):
        site = translation.meta[side]["site"]
        rows = ActivationStore.open(train / side)[site][:].astype(np.float64)
        centred = rows - rows.mean(0)
        yield np.where(centred.std(0) > 1e-6 * np.abs(rows).max(0), centred, 0)


class Silent:
    """Shows nothing."""

    def stage(self, number, title):
        pass

    def line(self, text):
        pass

    def table(self, columns, rows):
        pass


def test_two_processes_leave_what_one_leaves(start, ended, tmp_path):
    tiny = smoke_recipe(tmp_path / "models").to_dict()
    changes = {
        f"{section}.{key}": value
        for section, values in tiny.items()
        if isinstance(values, dict)
        for key, value in values.items()
    } | LESS
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences()))
    changes["corpus.source"] = str(texts)
    script = Path(__file__).parent / "run.py"
    two = start(2, script, json.dumps(changes), tmp_path / "two", 1)
    recipe = Recipe(name="smoke").with_values(changes)
    run_experiment(recipe, tmp_path / "one", Silent(), PunktSentenceTokenizer())
    codes, said = ended(two)
    assert codes == [0, 0], said
    for half in ("train", "eval"):
        for side in ("subject", "atlas"):
            one, other = (
                ActivationStore.open(tmp_path / run / "activations" / half / side)
                for run in ("one", "two")
            )
            for site in one.sites:
                np.testing.assert_allclose(other[site][:], one[site][:], rtol=1e-5, atol=1e-6)
    maps = sorted((tmp_path / "one" / "translations").rglob("*.safetensors"))
    assert len(maps) == 6
    for run, file in product(("one", "two"), maps):
        found = Translation.load(tmp_path / run / file.relative_to(tmp_path / "one"))
        of_subject, of_atlas = centred_rows(tmp_path / run, found)
        expected = of_subject.T @ of_atlas / len(of_atlas)
        if found.method == "correlation":
            scales = of_subject.std(0)[:, None] * of_atlas.std(0)
            expected = np.divide(expected, scales, np.zeros_like(expected), where=scales > 0)
        close = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found.matrix, expected, rtol=0, atol=close)
    numbers = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two")]
    assert numbers[0]["corpus"] == numbers[1]["corpus"]
    layers = [run["quality"]["layers"] for run in numbers]
    assert layers[0].keys() == layers[1].keys()
    for site, methods in layers[0].items():
        for method, by in methods.items():
            for metric in ("auroc_per_feature", "ap_per_feature"):
                # Close scores may change places: one pair of a positive and a negative.
                found, expected = layers[1][site][method][metric], by[metric]
                np.testing.assert_allclose(found, expected, atol=0.02)
    done = [json.loads((tmp_path / r / "manifest.json").read_text()) for r in ("one", "two")]
    assert list(done[0]["stages"]) == list(done[1]["stages"])
    # Models that lie over both processes: what is left to do, on what was done.
    changes |= {"identify.method": "covariance", "steer.strengths": [4.0]}
    changes["identify.queries"] = [{"name": "asked", "features": [0, 2]}]
    shutil.copytree(tmp_path / "two", tmp_path / "split")
    split = start(2, script, json.dumps(changes), tmp_path / "split", 2)
    recipe = Recipe(name="smoke").with_values(changes)
    run_experiment(recipe, tmp_path / "two", Silent(), PunktSentenceTokenizer())
    codes, said = ended(split)
    assert codes == [0, 0], said
    for name in ("steering", "queries"):
        files = [tmp_path / run / "reports" / f"{name}.json" for run in ("two", "split")]
        expected, found = (json.loads(file.read_text()) for file in files)
        assert expected and texts_of(found) == texts_of(expected)
