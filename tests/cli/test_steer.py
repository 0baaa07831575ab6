"""`search`, `identify`, `steer` and `evaluate steering` on a small run folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer
from typer.testing import CliRunner

from atlas_jax.activations import capture
from atlas_jax.atlas import SAE, Labels, load_atlas, save_saelens
from atlas_jax.cli.app import app
from atlas_jax.corpus import build_corpus
from atlas_jax.models import generate, load_model
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.steering import steer_query
from atlas_jax.translate import Translation

RUNNER = CliRunner()
SITES = ("blocks.1.mlp.hook_post", "blocks.2.mlp.hook_post")


def invoke(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


def ok(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def write_atlas(folder, model):
    decoder = jnp.asarray(np.random.default_rng(1).standard_normal((24, 32)), jnp.float32)
    sae = SAE(
        W_enc=decoder.T,
        b_enc=jnp.zeros(24),
        W_dec=decoder,
        b_dec=jnp.zeros(32),
        threshold=jnp.full(24, 1.0),
        architecture="jumprelu",
        k=None,
        apply_b_dec_to_input=False,
    )
    save_saelens(sae, folder, site="blocks.1.hook_resid_post", model_name=str(model))
    Labels.of([(i, f"kind {i}") for i in range(24)]).save(folder / "labels.jsonl")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tiny_llama, tiny_llama_tied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_atlas(folder / "atlas", tiny_llama_tied)
    recipe = Recipe().with_values(
        {"subject.model": str(tiny_llama), "atlas.reference": str(folder / "atlas")}
    )
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe.to_dict(), "stages": {}}))
    texts = folder / "texts.jsonl"
    lines = [f"The function number {i} returns a list of {i % 7} items." for i in range(40)]
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    corpus = build_corpus(
        str(texts), percentiles=(0, 100), splitter=PunktSentenceTokenizer(), out=folder / "corpus"
    )
    model, atlas = load_model(recipe.subject.model), load_atlas(recipe.atlas.reference)
    out = folder / "activations" / "eval" / "subject"
    store = capture(model, corpus.eval, list(SITES), out=out, batch_tokens=1024)
    assert len(store) > 10
    rng = np.random.default_rng(0)
    for i, site in enumerate(SITES):
        matrix = rng.standard_normal((model.width(site), atlas.sae.n_features)).astype(np.float32)
        meta = {
            "subject": {"site": site},
            "atlas": {"model": "atlas", "fingerprint": atlas.fingerprint},
            "texts": corpus.train.hash,
        }
        for method in ("procrustes", "covariance")[: 2 - i]:
            translation = Translation(method, matrix, meta)
            translation.save(folder / "translations" / site / f"{method}.safetensors")
    return folder, model, atlas


def scores(run, site, features):
    folder, _, atlas = run
    path = folder / "translations" / site / "procrustes.safetensors"
    return Translation.load(path).scores(atlas.query(features=features))


def test_search_ranks_the_features_of_all_sites(run, tmp_path):
    folder, _, _ = run
    found = json.loads(ok("search", folder, "--features", "3,4", "-k", 6, "--json"))
    every = sorted(
        ((-s, site, i) for site in SITES for i, s in enumerate(scores(run, site, [3, 4])))
    )[:6]
    assert [(hit["site"], hit["feature"]) for hit in found["found"]] == [e[1:] for e in every]
    assert [one["feature"] for one in found["query"]["features"]] == [3, 4]
    saved = tmp_path / "q.json"
    one = ["search", folder, "--features", "3,4", "--site", SITES[1], "--method", "procrustes"]
    text = ok(*one, "--save-query", saved)
    assert "atlas feature 3" in text and SITES[0] not in text
    assert json.loads(ok("search", folder, saved, "-k", 6, "--json")) == found


def test_identify_shows_the_texts_that_excite(run):
    folder, _, _ = run
    found = json.loads(ok("identify", folder, "--features", "3", "-k", 2, "--samples", 3, "--json"))
    assert len(found["found"]) == 2
    for hit in found["found"]:
        values = [sample["activation"] for sample in hit["samples"]]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert hit["concepts"][0]["description"]
    assert "The function number" in ok("identify", folder, "--features", "3", "-k", 1)


def test_steer_shows_both_texts_streams_and_resumes(run, tmp_path):
    folder, model, atlas = run
    out = tmp_path / "steered.jsonl"
    command = ["steer", folder, "--features", "3", "--prompt", "A list", "--prompt", "If"]
    command += ["--strength", 20, "--strength", -20, "--max-new-tokens", 6, "--out", out, "--each"]
    shown = ok(*command)
    for word in ('"A list ..."', "unsteered", "all sites", SITES[0], "14 texts in"):
        assert word in shown
    first = out.read_bytes()
    rows = [json.loads(line) for line in first.splitlines()]
    assert len(rows) == 14
    out.write_bytes(first[:-30])
    found = json.loads(ok(*command, "--json"))
    assert sorted(out.read_bytes().splitlines()) == sorted(first.splitlines())
    assert found["texts"][0]["place"] == "unsteered" and found["mode"] == "steer"
    maps = {
        site: Translation.load(folder / "translations" / site / "procrustes.safetensors")
        for site in SITES
    }
    edits = steer_query(maps, atlas.query(features=[3]), 20.0)
    expected = generate(model, ["A list", "If"], edits, 6)
    got = {
        row["prompt"]: row["text"]
        for row in found["texts"]
        if (row["place"], row["strength"]) == ("all sites", 20.0)
    }
    assert [got["A list"], got["If"]] == expected
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A list\nIf\n")
    more = ["--prompts", prompts, "--strength", 20, "--mode", "add", "--new-only", "--json"]
    other = json.loads(ok("steer", folder, "--features", "3", "--max-new-tokens", 6, *more))
    assert [row["prompt"] for row in other["texts"]] == ["A list", "If"] * 2


@pytest.fixture
def known(run, monkeypatch):
    """Concepts without an embedder, which would have to be downloaded."""
    atlas = run[2]

    def by_name(_, concepts):
        assert concepts is None or set(concepts) == {"rivers", "nothing"}
        return {"rivers": atlas.query(features=[0])}, {"nothing": "No description is near."}

    monkeypatch.setattr("atlas_jax.evaluate.protocol_queries", by_name)


def test_evaluate_steering_writes_table_5(run, known, tmp_path):
    out = tmp_path / "evaluation"
    command = [
        "evaluate",
        "steering",
        run[0],
        "--concept",
        "rivers",
        "--concept",
        "nothing",
        "--strength",
        20,
    ]
    command += ["--prompts", 2, "--max-new-tokens", 4, "--judge", "lexical", "--out", out]
    shown = ok(*command)
    for word in (
        "left out: nothing",
        "Orthogonal Procrustes",
        "Random directions",
        "combined",
        "faithfulness, %",
    ):
        assert word in shown
    facts = json.loads((out / "steering.json").read_text())
    assert facts["prompts"] == ["A long time ago", "I have just begun"]
    assert facts["left_out"] == {"nothing": "No description is near."}
    assert len(facts["rows"]["lexical"]) == 2 * 3 and len(facts["examples"]["rows"]) == 1
    (found,) = facts["identified"]
    assert found["concept"] == "rivers" and found["text"]
    tables = (out / "steering.md").read_text()
    assert "| Orthogonal Procrustes |" in tables and f"| rivers | {found['feature']} |" in tables
    assert "<svg" in (out / "faithfulness.svg").read_text()
    assert r"\toprule" in (out / "steering.tex").read_text()
    assert json.loads(ok(*command, "--json")) == facts


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judge", "me"], "endpoint, embedding, lexical, got 'me'"),
        (["--judge", "endpoint"], "an endpoint like"),
        (["--judge", "endpoint", "--url", "http://127.0.0.1:9/v1"], "name of a model"),
        (["--judge", "lexical", "--strength", 0], "strengths beside 0"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(run, known, tmp_path, more, message):
    result = invoke("evaluate", "steering", run[0], *more, "--out", tmp_path)
    assert result.exit_code == 2 and message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", "x"], "atlas-jax quickstart --out nowhere"),
        (["search", "RUN"], "either a query in words"),
        (["search", "RUN", "x", "--features", "1"], "either a query in words"),
        (["search", "RUN", "--features", "one"], "like 12,34, got 'one'"),
        (["search", "RUN", "--features", "24"], "from 0 to 23"),
        (
            ["search", "RUN", "--features", "1", "--site", "blocks.0.mlp.hook_post"],
            "that was fitted",
        ),
        (["search", "RUN", "--features", "1", "--method", "covariance"], "'covariance'"),
        (["identify", "RUN", "none.json"], "there is no such file"),
        (["steer", "RUN", "--features", "1", "--mode", "push", "--prompt", "x"], "got 'push'"),
        (["steer", "RUN", "--features", "1", "--prompt", ""], "a prompt to continue"),
        (["steer", "RUN", "--features", "1", "--prompts", "none.txt"], "text file of prompts"),
        (
            ["steer", "RUN", "--features", "1", "--strength", "nan", "--prompt", "x"],
            "finite strength",
        ),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*[run[0] if a == "RUN" else a for a in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_run_without_translations_is_refused(run, tmp_path):
    (tmp_path / "manifest.json").write_text((run[0] / "manifest.json").read_text())
    result = invoke("search", tmp_path, "--features", "1")
    assert result.exit_code == 2 and "let the run finish its fit" in result.stderr


def test_help_has_an_example():
    result = invoke("evaluate", "steering", "--help")
    assert result.exit_code == 0 and "Example: atlas-jax evaluate steering" in result.output


@pytest.mark.parametrize("command", ["search", "identify", "steer"])
def test_every_help_has_an_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and f"Example: atlas-jax {command}" in result.output
