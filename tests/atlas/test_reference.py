"""References: releases as SAELens names them, hub paths and folders; the hub is a folder here."""

import importlib.util
import json
import os
from fnmatch import fnmatchcase
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from atlas_jax.atlas.formats import save_saelens
from atlas_jax.atlas.load import load_atlas
from atlas_jax.atlas.reference import TABLE, find_sae, hub_model, releases
from atlas_jax.atlas.sae import SAE
from atlas_jax.errors import InputError

D, F = 6, 10
GOLDENS = Path(__file__).parent / "goldens"


def tensors():
    r = np.random.default_rng(0)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    return {name: r.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def standard():
    return SAE(**{k: jnp.asarray(v) for k, v in tensors().items() if k != "threshold"})


class Hub:
    """Repositories in a folder; what is asked for is noted, as `snapshot_download` is asked."""

    def __init__(self, root):
        self.root, self.asked, self.fetched = root, [], []

    def folder(self, repository):
        owner, name = repository.split("/")
        return self.root / f"models--{owner}--{name}" / "snapshots" / "main"

    def snapshot_download(self, repository, revision=None, allow_patterns=()):
        self.asked.append((repository, revision))
        folder = self.folder(repository)
        if not folder.is_dir():
            raise OSError("no such repository")
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        self.fetched += [f for f in files if any(fnmatchcase(f, p) for p in allow_patterns)]
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def gemma(hub, repository, path):
    folder = hub.folder(repository) / path
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **tensors())
    return folder


CANONICAL = "gemma-scope-2b-pt-res-canonical"


def test_a_release_and_an_id(hub):
    path = "layer_20/width_16k/average_l0_71"
    folder = gemma(hub, "google/gemma-scope-2b-pt-res", path)
    gemma(hub, "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_139")
    wanted = {"neuronpedia_id": "gemma-2-2b/20-gemmascope-res-16k"}
    for reference in (
        (f"{CANONICAL}/layer_20/width_16k/canonical",),
        (CANONICAL, "layer_20/width_16k/canonical"),
    ):
        found = find_sae(*reference)
        assert found.folder == folder and dict(found.extra) == wanted
    assert hub.asked == [("google/gemma-scope-2b-pt-res", None)] * 2
    assert set(hub.fetched) == {f"{path}/params.npz"}  # and nothing of the other one
    assert find_sae(f"gemma-scope-2b-pt-res/{path}").folder == folder
    assert find_sae(f"google/gemma-scope-2b-pt-res/{path}", revision="v2").folder == folder
    assert hub.asked[-1] == ("google/gemma-scope-2b-pt-res", "v2")


def test_an_atlas_of_a_release(hub):
    gemma(hub, "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    atlas = load_atlas(CANONICAL, sae_id="layer_20/width_16k/canonical")
    assert atlas.site == "blocks.20.hook_resid_post" and atlas.sae.n_features == F
    assert atlas.name == f"{CANONICAL}/layer_20/width_16k/canonical"


def test_labels_of_another_source_are_refused(hub, tmp_path):
    gemma(hub, "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    row = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "index": "1"}
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "batch-0.jsonl").write_text(json.dumps(row | {"description": "ships"}))
    load = lambda: load_atlas(f"{CANONICAL}/layer_20/width_16k/canonical", labels=labels)  # noqa: E731
    assert load().labels[1] == ("ships",)
    other = row | {"layer": "21-gemmascope-res-16k", "description": "taxes"}
    (labels / "batch-1.jsonl").write_text(json.dumps(other))
    assert load().labels[1] == ("ships",)  # of several, the one that belongs here
    (labels / "batch-0.jsonl").unlink()
    words = "labels of gemma-2-2b/20-gemmascope-res-16k, got labels of gemma-2-2b/21"
    with pytest.raises(InputError, match=words):
        load()


def test_a_scale_that_the_release_knows(hub):
    facts = releases()["gemma-2b-res-jb"]
    sae_id, scale = next(iter(facts["scales"].items()))
    folder = hub.folder(facts["repo"]) / facts["paths"][sae_id]
    save_saelens(standard(), folder, site=sae_id, model_name="gemma-2b")
    config = json.loads((folder / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    del config["metadata"]["sha256"]
    (folder / "cfg.json").write_text(json.dumps(config))
    atlas = load_atlas(f"gemma-2b-res-jb/{sae_id}")
    np.testing.assert_allclose(atlas.sae.W_enc, standard().W_enc * scale, rtol=1e-6)
    with pytest.raises(InputError, match="norm_scaling_factor"):
        load_atlas(folder)
    again = load_atlas(folder, config={"norm_scaling_factor": scale})
    np.testing.assert_array_equal(again.sae.W_enc, atlas.sae.W_enc)


def test_llama_scope_by_its_release(hub):
    repository = "fnlp/Llama3_1-8B-Base-LXR-8x"
    folder = hub.folder(repository) / "Llama3_1-8B-Base-L8R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    t = tensors()
    stored = {"encoder.bias": t["b_enc"], "decoder.bias": t["b_dec"]}
    stored["encoder.weight"] = np.ascontiguousarray(t["W_enc"].T)
    stored["decoder.weight"] = np.ascontiguousarray(t["W_dec"].T)
    save_file(stored, folder / "checkpoints" / "final.safetensors")
    facts = {"jump_relu_threshold": 0.2, "dataset_average_activation_norm": {"in": 4.0}}
    facts |= {"d_model": D, "d_sae": F, "hook_point_in": "blocks.8.hook_resid_post"}
    (folder / "hyperparams.json").write_text(json.dumps(facts))
    atlas = load_atlas("llama_scope_lxr_8x/l8r_8x")
    assert atlas.site == "blocks.8.hook_resid_post"
    assert sorted(hub.fetched) == [
        "Llama3_1-8B-Base-L8R-8x/checkpoints/final.safetensors",
        "Llama3_1-8B-Base-L8R-8x/hyperparams.json",
    ]


def test_the_config_of_a_sparsify_run_lies_above(hub):
    repository = "EleutherAI/sae-pythia-160m"
    folder = hub.folder(repository) / "layers.3"
    folder.mkdir(parents=True)
    golden = GOLDENS / "sparsify" / "layers.3"
    for name in ("cfg.json", "sae.safetensors"):
        (folder / name).write_bytes((golden / name).read_bytes())
    (folder.parent / "config.json").write_text('{"model": "EleutherAI/pythia-160m"}')
    assert load_atlas(f"{repository}/layers.3").site == "blocks.3.hook_resid_post"
    assert "config.json" in hub.fetched


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere", "smollm2-135m-12-4k.*got 'nowhere'"),
        ("smollm2-135m-12-4", "Did you mean smollm2-135m-12-4k"),
        ("./not/here", "got './not/here'"),
        (CANONICAL, f"id of the release {CANONICAL}, such as .*got 'none'"),
        (f"{CANONICAL}/layer_20/width_16k/canonica", "such as layer_20/width_16k/canonical"),
        ("gemma-scope-2b-pt-transcoders/layer_0", "transcoder"),
        ("google/gemma-scope-9b-pt-res/layer_1", "cannot be reached"),
        ("gpt2-small-res-jb/blocks.8.hook_resid_pre", "cannot be reached for jbloom"),
    ],
)
def test_refusals(hub, reference, words):
    with pytest.raises(InputError, match=words) as error:
        find_sae(reference)
    assert "\n" not in str(error.value)


def test_a_repository_without_an_autoencoder_there(hub):
    gemma(hub, "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    with pytest.raises(InputError, match=r"at layer_21 of google.*none of sae_weights"):
        find_sae("google/gemma-scope-2b-pt-res/layer_21")


def test_a_folder_comes_before_a_release(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("gpt2-small-res-jb/x")
    assert find_sae("gpt2-small-res-jb/x").folder == Path("gpt2-small-res-jb/x")


def test_models_by_their_names_on_the_hub():
    assert hub_model("gpt2-small") == "openai-community/gpt2"
    assert hub_model("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    spoken = {facts["model"] for facts in releases().values()}
    assert all("/" in name for name in spoken)


def test_the_table_is_what_saelens_says():
    spec = importlib.util.spec_from_file_location("releases", GOLDENS.parent / "releases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored, made = json.loads(TABLE.read_text()), module.table(module.directory())
    # A later SAELens may know more releases; what is stored must still hold.
    for name, facts in stored["releases"].items():
        assert made["releases"][name] == facts
    assert len(stored["releases"]) > 90
