"""`atlas-jax export` on a run folder of two tiny models, and on a translation alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFReader
from nltk.tokenize.punkt import PunktSentenceTokenizer
from safetensors import safe_open
from typer.testing import CliRunner

from atlas_jax.atlas import SAE, Labels, load_atlas, save_saelens
from atlas_jax.cli.app import app
from atlas_jax.corpus import build_corpus
from atlas_jax.pipeline.recipe import Recipe
from atlas_jax.translate import Translation

RUNNER = CliRunner()
SITES = {"blocks.1.mlp.hook_post": 56, "blocks.1.hook_resid_post": 32}


def invoke(*arguments):
    return RUNNER.invoke(app, ["export", *map(str, arguments)])


def ok(*arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is most of the time of these tests, and their models are tiny."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tiny_llama, tiny_llama_tied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(1)
    decoder = jnp.asarray(rng.standard_normal((24, 32)), jnp.float32)
    sae = SAE(decoder.T, jnp.zeros(24), decoder, jnp.zeros(32), jnp.full(24, 3.0), "jumprelu")
    site = "blocks.0.hook_resid_post"
    save_saelens(sae, folder / "atlas", site=site, model_name=str(tiny_llama_tied))
    Labels.of([(i, f"kind {i}") for i in range(24)]).save(folder / "atlas" / "labels.jsonl")
    recipe = Recipe().with_values(
        {"subject.model": str(tiny_llama), "atlas.reference": str(folder / "atlas")}
    )
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe.to_dict(), "stages": {}}))
    texts = folder / "texts.jsonl"
    lines = [f"The function number {i} returns a list of {i % 7} items." for i in range(40)]
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    build_corpus(
        str(texts), percentiles=(0, 100), splitter=PunktSentenceTokenizer(), out=folder / "corpus"
    )
    for site, width in SITES.items():
        matrix = rng.standard_normal((width, 24)).astype(np.float32)
        meta = {"subject": {"site": site, "model": "tiny"}, "atlas": {"model": "atlas"}}
        path = folder / "translations" / site / "procrustes.safetensors"
        Translation("procrustes", matrix, meta).save(path)
    return folder


def saved(run, site):
    return Translation.load(run / "translations" / site / "procrustes.safetensors")


def test_a_translation_of_a_run_and_of_a_file(run, tmp_path):
    site = "blocks.1.mlp.hook_post"
    found = ok("translation", run, "--site", site, "--out", tmp_path / "t.npz")
    assert found == {"files": [str(tmp_path / "t.npz")], "shape": [56, 24]}
    np.testing.assert_array_equal(np.load(tmp_path / "t.npz")["matrix"], saved(run, site).matrix)
    file = run / "translations" / site / "procrustes.safetensors"
    shown = invoke("translation", file, "--out", tmp_path / "again.safetensors")
    assert shown.exit_code == 0 and "written: " in shown.stdout
    assert Translation.load(tmp_path / "again.safetensors").meta == saved(run, site).meta


def test_vectors_are_the_scores_of_the_query(run, tmp_path):
    atlas = load_atlas(run / "atlas")
    command = ["vector", run, "--features", "3,4", "--out"]
    found = ok(*command, tmp_path / "v.py", "--library", "nnsight", "--strength", 7)
    assert [p.rpartition("/")[2] for p in found["files"]] == ["v.safetensors", "v.py"]
    assert [f["description"] for f in found["query"]["features"]] == ["kind 3", "kind 4"]
    query = atlas.query(features=[3, 4])
    with safe_open(tmp_path / "v.safetensors", framework="np") as file:
        for site in SITES:
            np.testing.assert_allclose(file.get_tensor(site), saved(run, site).scores(query))
        steering = json.loads(file.metadata()["steering"])
    assert [(s["strength"], s["mode"]) for s in steering] == [(7.0, "steer")] * 2
    found = ok(*command, tmp_path / "v.gguf", "--site", "blocks.1.hook_resid_post")
    assert found["mode"] == "add"
    (tensor,) = GGUFReader(tmp_path / "v.gguf").tensors
    expected = 4 * saved(run, "blocks.1.hook_resid_post").scores(query)
    np.testing.assert_allclose(tensor.data, expected, rtol=1e-6)


def test_the_inherited_autoencoder_of_a_run_and_of_a_file(run, tiny_llama, tmp_path):
    site = "blocks.1.hook_resid_post"
    found = ok("sae", run, "--site", site, "--out", tmp_path / "sae", "--tokens", 100)
    assert found["tokens"] == 100 and 0 < found["l0"] < 24 and found["fve"] < 1
    again = load_atlas(tmp_path / "sae")
    assert again.describe(5) == "kind 5" and again.sae.architecture == "jumprelu"
    assert again.card["l0"] == found["l0"] and again.model.width(again.site) == 32
    plain = invoke("sae", run, "--site", site, "--out", tmp_path / "plain", "--tokens", 0)
    assert plain.exit_code == 0
    file = run / "translations" / site / "procrustes.safetensors"
    ok("sae", file, "--out", tmp_path / "file")
    assert load_atlas(tmp_path / "plain").sae.architecture == "standard"
    assert load_atlas(tmp_path / "file").describe(5) != "kind 5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translation", "RUN", "--out", "t.npz"], "Expected --site, one of blocks.1.hook_resid"),
        (["translation", "FILE", "--out", "t.txt"], "ending in .safetensors, .npz, .pt"),
        (["translation", "nowhere", "--out", "t.npz"], "the folder of a run"),
        (["vector", "RUN", "--out", "v.npz"], "either a query in words"),
        (["vector", "RUN", "--features", "1", "--out", "v.md"], "got 'v.md'"),
        (["vector", "RUN", "--features", "1", "--out", "v.py", "--library", "x"], "got 'x'"),
        (
            ["vector", "RUN", "--features", "1", "--out", "v.gguf", "--mode", "steer"],
            "ask for mode add",
        ),
        (["sae", "RUN", "--out", "s"], "Expected --site"),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    file = run / "translations" / "blocks.1.mlp.hook_post" / "procrustes.safetensors"
    result = invoke(*[{"RUN": run, "FILE": file}.get(a, a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["translation", "vector", "sae"])
def test_every_help_has_an_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and f"Example: atlas-jax export {command}" in result.output
