"""A recipe gives the same files twice, and `atlas-jax verify` notices what is not as it was."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import tensorstore as ts
from nltk.tokenize.punkt import PunktSentenceTokenizer
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.pipeline import run_experiment
from atlas_jax.pipeline.smoke import smoke_recipe
from atlas_jax.pipeline.verify import verify_run
from atlas_jax.translate import METHODS, Translation

SITE = "blocks.1.mlp.hook_post"
STAMPED = {"manifest.json", "report.json", "report.html"}  # hold times

KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SOME_SECRET")
PLANTED = "planted-key-0123456789"


class Silent:
    """Shows nothing."""

    def stage(self, number, title):
        pass

    def line(self, text):
        pass

    def table(self, columns, rows):
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    who = ("cat", "child", "baker", "sailor", "teacher", "river", "engine", "letter")
    does = ("follows", "answers", "carries", "forgets", "counts", "opens")
    what = ("the old bridge", "every number", "some warm bread", "the last train")
    texts = [f"A {a} {b} {c} before noon." for a, b, c in product(who, does, what)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text(lines)
    recipe = smoke_recipe(folder / "models").with_values(
        {
            "corpus.source": str(folder / "texts.jsonl"),
            "corpus.sequences": 160,
            "subject.sites": [SITE],
            "fit.methods": list(METHODS),
            "retrieval.features": 4,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            patch.setenv(name, PLANTED)
        for name in ("one", "two"):
            run_experiment(recipe, folder / name, Silent(), PunktSentenceTokenizer())
    return folder


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_recipe_gives_the_same_files(runs):
    one, two = hashes(runs / "one"), hashes(runs / "two")
    assert one.keys() == two.keys() and len(one) > 20
    differ = {name for name in one if one[name] != two[name]}
    assert {name for name in differ if not name.startswith("activations/")} <= STAMPED
    assert {name.split("/")[-2] for name in differ if name.startswith("activations/")} <= {"report"}
    reports = [json.loads((runs / name / "report.json").read_text()) for name in ("one", "two")]
    for report in reports:
        del report["created"], report["timings"]
    assert reports[0] == reports[1]
    manifest = json.loads((runs / "one" / "manifest.json").read_text())
    for name, recorded in manifest["files"].items():
        assert recorded == one[name]
    assert {"report.json", "report.html", "reports/quality.json"} <= manifest["files"].keys()


def test_keys_of_the_environment_are_in_no_file(runs):
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert len(files) > 60
    assert [path for path in files if PLANTED.encode() in path.read_bytes()] == []


def verify(folder, *options):
    return CliRunner().invoke(app, ["verify", str(folder), *options])


def test_a_good_run_passes(runs):
    result = verify(runs / "one", "--rows", "4", "--json")
    assert result.exit_code == 0, result.output
    checks = json.loads(result.output)
    assert all(check["ok"] for check in checks)
    assert sum("read again" in check["what"] for check in checks) == 4
    again = [check for check in checks if "computed again" in check["what"]]
    assert [check["part"].split("/")[-1] for check in again] == list(METHODS)


def other(path, change):
    """A translation with another matrix, and checksums that fit it."""
    found = Translation.load(path)
    replace(found, matrix=change(found.matrix.copy())).save(path)


def scaled(matrix):
    return 1.01 * matrix


def rolled(matrix):
    return np.roll(matrix, 1, axis=0)


@pytest.mark.parametrize(
    "method, change",
    [
        *((method, rolled) for method in METHODS if method != "procrustes_exact"),
        ("procrustes", np.negative),
        ("procrustes_exact", scaled),
        ("covariance", scaled),
    ],
)
def test_another_matrix_is_noticed_though_its_checksums_fit(runs, tmp_path, method, change):
    run = shutil.copytree(runs / "one", tmp_path / "run")
    other(run / "translations" / SITE / f"{method}.safetensors", change)
    bad = [check for check in verify_run(run, rows=0) if not check.ok]
    assert [check.part for check in bad] == [f"translations/{SITE}/{method}"]
    assert "computed again" in bad[0].what


def test_another_row_of_a_store_is_noticed(runs, tmp_path):
    run = shutil.copytree(runs / "one", tmp_path / "run")
    folder = run / "activations" / "eval" / "subject" / SITE / "max"
    array = ts.open({"driver": "zarr3", "kvstore": folder.as_uri()}, open=True).result()
    array[0].write(np.asarray(array[0].read().result()) * 1.1).result()
    bad = [check for check in verify_run(run, rows=1000) if not check.ok]
    assert [(check.part, "read again" in check.what) for check in bad] == [
        ("activations/eval/subject", True)
    ]


def test_other_files_are_noticed_in_one_line(runs, tmp_path):
    run = shutil.copytree(runs / "one", tmp_path / "run")
    quality = run / "reports" / "quality.json"
    quality.write_text(quality.read_text().replace("0.5", "0.6", 1))
    (run / "report.html").unlink()
    (run / "corpus" / "corpus.parquet").write_bytes(b"PAR1")
    (run / "translations" / SITE / "ridge.safetensors").write_bytes(b"\0" * 64)
    result = verify(run, "--rows", "0")
    assert result.exit_code == 2
    found = {
        line.split(":")[0].split()[1] for line in result.output.splitlines() if " BAD " in line
    }
    assert found >= {
        "reports/quality.json",
        "report.html",
        "corpus",
        f"translations/{SITE}/ridge",
    }
    (line,) = result.stderr.splitlines()
    assert "Expected" in line and "did not" in line


def test_no_run_is_one_line(tmp_path):
    result = verify(tmp_path)
    assert result.exit_code == 2 and "Expected the folder of a run" in result.stderr
