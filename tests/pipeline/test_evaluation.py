"""`atlas-jax evaluate` on a finished run: files, tables, the paper's figures, wrong input."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.evaluate import write_sets
from atlas_jax.evaluate.paper import SUBJECTS, figures, translation_figures
from atlas_jax.evaluate.tables import translation_tables

SITE = "blocks.2.mlp.hook_post"


def evaluate(*arguments):
    return CliRunner().invoke(app, ["--debug", "evaluate", *map(str, arguments)])


def test_translation_writes_numbers_tables_and_plots(paper, tmp_path, numbers):
    recipe, folder, _ = paper
    chosen = ",".join(map(str, recipe.evaluate.chosen))
    found = evaluate("translation", folder / "subject", "--features", chosen, "--out", tmp_path)
    assert found.exit_code == 0, found.output
    result = json.loads((tmp_path / "translation.json").read_text())
    # The same features, seed and samples as in the run itself.
    for site, methods in numbers["quality"]["layers"].items():
        rows = {row["method"]: row for row in result["sites"][site]["methods"]}
        assert rows["procrustes"]["auroc"] == pytest.approx(methods["procrustes"]["auroc"][0])
    assert result["corpus"] == result_of_store(folder)
    text = (tmp_path / "translation.md").read_text()
    assert "Orthogonal Procrustes" in text and "The paper's own figures" in text
    assert "0.86 | 0.49" in text  # L19 of table 3
    tests = result["sites"][SITE]["tests"]["ap"]
    assert len(tests) == 15 and all(t["p"] <= t["p_holm"] for t in tests)
    latex = (tmp_path / "translation.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == text.count("| --- |")
    assert not re.search(r"(?<!\\)%", latex)
    for name in ("auroc", "ap", "auroc_features", "ap_features"):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert root.tag.endswith("svg") and "viewBox" in root.attrib
    assert "blocks.2" in (tmp_path / "auroc.svg").read_text()


def result_of_store(folder):
    from atlas_jax.activations import ActivationStore

    return ActivationStore.open(folder / "subject" / "activations" / "eval" / "subject").meta[
        "texts"
    ]


def test_retrieval_by_held_out_texts(paper, tmp_path):
    _, folder, _ = paper
    arguments = ["--features", 12, "--samples", 5, "--method", "procrustes", "--method"]
    arguments += ["covariance", "--site", SITE, "--out", tmp_path, "--json"]
    found = evaluate("retrieval", folder / "subject", *arguments)
    assert found.exit_code == 0, found.output
    report = json.loads(found.output)["sites"][SITE]
    assert [row["method"] for row in report["methods"]] == ["procrustes", "covariance"]
    assert 1 / 12 <= report["random"]["mpp"] <= 1 / 2
    text = (tmp_path / "retrieval.md").read_text()
    assert "0.97" in text and "tied" in text
    again = json.loads((folder / "subject" / "reports" / "retrieval.json").read_text())[SITE]
    assert again["features"] == report["features"]


def test_retrieval_by_a_file_of_texts(paper, tmp_path, sentences):
    _, folder, _ = paper
    rng = np.random.default_rng(0)
    texts = {i: [str(s) for s in rng.choice(sentences, 2, replace=False)] for i in (3, 9, 11, 20)}
    sets = write_sets(tmp_path / "sets.jsonl", texts)
    arguments = ["--sets", sets, "--site", SITE, "--validity", "none", "--out", tmp_path]
    found = evaluate("retrieval", folder / "subject", *arguments)
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "retrieval.json").read_text())["sites"][SITE]
    assert report["features"] == [3, 9, 11, 20] and report["source"] == "sets.jsonl"
    wrong = CliRunner().invoke(
        app, ["evaluate", "retrieval", str(folder / "subject"), "--sets", str(sets)]
    )
    assert wrong.exit_code == 2 and "choose with --site" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "ridge"], "got 'ridge'"),
        (["--site", "blocks.9.mlp.hook_post"], "got 'blocks.9"),
        (["--features", "some"], "got 'some'"),
        (["--features", "3,400"], "got [400]"),
    ],
)
def test_wrong_input_is_one_line(paper, arguments, message, tmp_path):
    folder = paper[1] / "subject"
    result = CliRunner().invoke(
        app, ["evaluate", "translation", str(folder), "--out", str(tmp_path), *arguments]
    )
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_a_run(tmp_path):
    result = CliRunner().invoke(app, ["evaluate", "translation", str(tmp_path)])
    assert result.exit_code == 2 and "holds none" in result.stderr


def test_the_papers_figures():
    found = figures()
    assert set(found["translation"]) == set(SUBJECTS.values())
    for layers in found["translation"].values():
        assert list(layers) == ["L3", "L12", "L19", "L25", "L30"]
        for methods in layers.values():
            best = max(methods, key=lambda m: methods[m]["ap"])
            assert set(methods) == set(found["methods"]) and best == "procrustes"
    site = "blocks.19.mlp.hook_post"
    known = translation_figures("meta-llama/Llama-3.1-8B", site)
    assert known["procrustes"] == {"auroc": 0.86, "ap": 0.49}
    assert translation_figures("gemma-3-270m", site) == {}
    assert translation_figures("meta-llama/Llama-3.1-8B", "blocks.4.mlp.hook_post") == {}
    assert translation_figures("meta-llama/Llama-3.1-8B", "blocks.19.hook_mlp_out") == {}


def test_a_paper_subject_gets_the_papers_figure_in_its_cells():
    row = {"method": "procrustes", "auroc": 0.851, "auroc_low": 0.84, "auroc_high": 0.86}
    row |= {"ap": 0.47, "ap_low": 0.45, "ap_high": None}
    report = {"methods": [row], "base_rate": 0.05, "n_features": 100, "n_samples": 9, "seed": 0}
    report["tests"] = {"auroc": [], "ap": []}
    sites = {"blocks.19.mlp.hook_post": report}
    name = "meta-llama/Llama-3.1-8B-Instruct"
    (table,) = translation_tables({"subject": name, "atlas": "a", "corpus": "c", "sites": sites})
    assert table.rows[0][1:] == ("0.851 [0.840, 0.860] (0.86)", "0.470 [0.450, –] (0.49)")
