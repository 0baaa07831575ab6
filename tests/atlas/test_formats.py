"""Folders of the other formats: what the owning libraries saved and computed; refusals."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from atlas_jax.atlas.formats import SAE_FORMATS, find_format
from atlas_jax.atlas.sae import decode, encode
from atlas_jax.errors import InputError

GOLDENS = Path(__file__).parent / "goldens"
CLASSES = {
    "AutoEncoder": ("standard", True),
    "AutoEncoderNew": ("standard", False),
    "GatedAutoEncoder": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
}
D, F = 6, 10


def load(folder, extra=None):
    return SAE_FORMATS[find_format(folder)].load(folder, extra)


def compare(loaded, folder):
    golden = np.load(folder / "golden.npz")
    x = jnp.asarray(golden["x"])
    features = encode(loaded.sae, x)
    assert 0.1 < (golden["features"] > 0).mean() < 0.9
    np.testing.assert_allclose(features, golden["features"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(loaded.sae, features), golden["back"], rtol=1e-5, atol=1e-5)


def change(folder, file, key=None, **fields):
    config = json.loads((folder / file).read_text())
    (config[key] if key else config).update(fields)
    (folder / file).write_text(json.dumps(config))


@pytest.fixture
def sparsify(tmp_path):
    return Path(shutil.copytree(GOLDENS / "sparsify" / "layers.3", tmp_path / "layers.3"))


@pytest.fixture
def dictionary(tmp_path):
    source = GOLDENS / "dictionary_learning" / "BatchTopKSAE" / "resid_post_layer_3"
    return Path(shutil.copytree(source, tmp_path / "resid_post_layer_3"))


def test_sparsify_as_the_library_computes(sparsify):
    loaded = load(sparsify)
    compare(loaded, sparsify)
    assert (loaded.site, loaded.model_name) == ("blocks.3.hook_resid_post", "")
    (sparsify.parent / "config.json").write_text('{"model": "EleutherAI/pythia-160m"}')
    assert load(sparsify).model_name == "EleutherAI/pythia-160m"


@pytest.mark.parametrize(
    ("hookpoint", "site"),
    [
        ("layers.10", "blocks.10.hook_resid_post"),
        ("model.layers.10.mlp", "blocks.10.hook_mlp_out"),
        ("h.4.attn", "blocks.4.hook_attn_out"),
        ("gpt_neox.layers.2.attention", "blocks.2.hook_attn_out"),
        ("embed_tokens", ""),
    ],
)
def test_sparsify_sites(sparsify, hookpoint, site):
    change(sparsify, "cfg.json", hookpoint=hookpoint)
    assert load(sparsify).site == site


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"transcode": True}, "transcoder"),
        ({"skip_connection": True}, "transcoder"),
        ({"activation": "groupmax"}, "'topk'.*groupmax"),
        ({"signed": True}, "signed topk"),
        ({"k": 0}, "k as a whole number from 1 to 16"),
        ({"num_latents": 17}, "num_latents 17, its tensors have 16"),
        ({"model_name": "google/gemma-2-2b", "hookpoint": "layers.1.mlp"}, "before the norm"),
    ],
)
def test_sparsify_refusals(sparsify, fields, words):
    change(sparsify, "cfg.json", **fields)
    with pytest.raises(InputError, match=words) as error:
        load(sparsify)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_as_the_library_computes(name):
    folder = GOLDENS / "dictionary_learning" / name / "resid_post_layer_3"
    loaded = load(folder)
    compare(loaded, folder)
    assert (loaded.sae.architecture, loaded.sae.apply_b_dec_to_input) == CLASSES[name]
    assert loaded.site == "blocks.3.hook_resid_post"
    assert loaded.model_name == "EleutherAI/pythia-70m-deduped"


def test_a_jumprelu_that_subtracts_says_so(tmp_path):
    source = GOLDENS / "dictionary_learning" / "JumpReluAutoEncoder" / "resid_post_layer_3"
    loaded = load(source, {"apply_b_dec_to_input": True})
    assert loaded.sae.apply_b_dec_to_input
    x = jnp.asarray(np.load(source / "golden.npz")["x"])
    moved = encode(load(source).sae, x - loaded.sae.b_dec[None])
    np.testing.assert_allclose(encode(loaded.sae, x), moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dict_class": "CrossCoder"}, "AutoEncoder.*got 'CrossCoder'"),
        ({"dict_class": None}, "dict_class"),
        ({"dict_class": "AutoEncoder"}, "bias missing"),
    ],
)
def test_dictionary_learning_refusals(dictionary, fields, words):
    change(dictionary, "config.json", "trainer", **fields)
    with pytest.raises(InputError, match=words):
        load(dictionary)


def test_dictionary_learning_files_that_are_damaged(dictionary):
    import torch

    state = torch.load(dictionary / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, dictionary / "ae.pt")
    with pytest.raises(InputError, match="never measured"):
        load(dictionary)
    torch.save({"encoder": print}, dictionary / "ae.pt")
    with pytest.raises(InputError, match="could run code"):
        load(dictionary)
    (dictionary / "config.json").write_text("{}")
    with pytest.raises(InputError, match="'trainer'"):
        load(dictionary)


def gemma_tensors(small=False):
    r = np.random.default_rng(0)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    tensors = {name: r.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if small:
        return {name.replace("W_", "w_"): value for name, value in tensors.items()}
    return tensors


def formula(t, x):
    """f = relu(z) * (z > threshold), z = x W_enc + b_enc, in float64."""
    t = {name.replace("w_", "W_"): value.astype(np.float64) for name, value in t.items()}
    z = x.astype(np.float64) @ t["W_enc"] + t["b_enc"]
    f = np.maximum(z, 0) * (z > t["threshold"])
    return f, f @ t["W_dec"] + t["b_dec"]


def check(loaded, tensors):
    x = np.random.default_rng(1).normal(size=(9, D)).astype(np.float32)
    features, back = formula(tensors, x)
    got = encode(loaded.sae, jnp.asarray(x))
    np.testing.assert_allclose(got, features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(loaded.sae, got), back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("repository", "folder", "site", "model"),
    [
        ("gemma-scope-2b-pt-res", "layer_20", "blocks.20.hook_resid_post", "google/gemma-2-2b"),
        ("gemma-scope-9b-it-res", "layer_9", "blocks.9.hook_resid_post", "google/gemma-2-9b-it"),
        ("gemma-scope-9b-pt-mlp", "layer_0", "blocks.0.hook_mlp_out", "google/gemma-2-9b"),
        ("models--google--gemma-scope-27b-pt-att", "layer_7", "blocks.7.attn.hook_z",
         "google/gemma-2-27b"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("small", [False, True])
def test_gemma_scope(tmp_path, repository, folder, site, model, small):
    path = tmp_path / repository / folder / "width_16k" / "average_l0_71"
    path.mkdir(parents=True)
    tensors = gemma_tensors(small)
    np.savez(path / "params.npz", **tensors, scaling_factor=np.ones(F, np.float32))
    loaded = load(path)
    assert (loaded.site, loaded.model_name) == (site, model)
    assert not loaded.sae.apply_b_dec_to_input
    check(loaded, tensors)


def test_gemma_scope_of_embeddings_and_without_names(tmp_path):
    path = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    path.mkdir(parents=True)
    tensors = gemma_tensors()
    np.savez(path / "params.npz", **tensors)
    loaded = load(path)
    root = np.float32(np.sqrt(D))
    check(loaded, tensors | {"W_enc": tensors["W_enc"] / root, "W_dec": tensors["W_dec"] * root})
    assert loaded.site == "hook_embed"
    np.savez(tmp_path / "params.npz", **tensors)
    assert (load(tmp_path).site, load(tmp_path).model_name) == ("", "")
    named = load(tmp_path, {"hook_name": "blocks.1.hook_mlp_out", "model_name": "m"})
    assert (named.site, named.model_name) == ("blocks.1.hook_mlp_out", "m")


def test_gemma_scope_refusals(tmp_path):
    np.savez(tmp_path / "params.npz", **gemma_tensors(), scaling_factor=np.full(F, 2.0))
    with pytest.raises(InputError, match="scales its features"):
        load(tmp_path)
    path = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_0"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", **gemma_tensors())
    with pytest.raises(InputError, match="transcoder"):
        load(path)
    (tmp_path / "params.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="Could not read npz"):
        load(tmp_path)


def write_2(path, tensors=None, **config):
    path.mkdir(parents=True, exist_ok=True)
    save_file(
        gemma_tensors(small=True) if tensors is None else tensors, path / "params.safetensors"
    )
    if config:
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("model.layers.13.output", "blocks.13.hook_resid_post"),
        ("model.layers.2.self_attn.o_proj.input", "blocks.2.attn.hook_z"),
        ("model.layers.2.post_feedforward_layernorm.output", "blocks.2.hook_mlp_out"),
    ],
)
def test_gemma_scope_2(tmp_path, module, site):
    names = {"model_name": "gemma-v3-1b-pt", "hf_hook_point_in": module}
    path = write_2(tmp_path / "x", architecture="jump_relu", **names)
    loaded = load(path)
    assert (loaded.site, loaded.model_name) == (site, "google/gemma-3-1b-pt")
    check(loaded, gemma_tensors())


def test_gemma_scope_2_by_its_path(tmp_path):
    for part, point in {"resid_post": "hook_resid_post", "attn_out_all": "attn.hook_z"}.items():
        path = tmp_path / "gemma-scope-2-270m-pt" / part / "layer_12_width_16k_l0_big"
        loaded = load(write_2(path))
        assert loaded.site == f"blocks.12.{point}"
        assert loaded.model_name == "google/gemma-3-270m"


def test_gemma_scope_2_refusals(tmp_path):
    written = {"hf_hook_point_in": "model.layers.1.pre", "hf_hook_point_out": "model.layers.1.x"}
    with pytest.raises(InputError, match=r"transcoder .model\.layers\.1\.x"):
        load(write_2(tmp_path / "a", **written))
    with pytest.raises(InputError, match="transcoder"):
        load(write_2(tmp_path / "transcoder_all" / "layer_1"))
    skip = gemma_tensors(small=True) | {"affine_skip_connection": np.eye(D, dtype=np.float32)}
    with pytest.raises(InputError, match="transcoder"):
        load(write_2(tmp_path / "b", skip))
    with pytest.raises(InputError, match="'relu'"):
        load(write_2(tmp_path / "c", architecture="relu"))
    with pytest.raises(InputError, match="threshold missing"):
        short = gemma_tensors(small=True)
        short.pop("threshold")
        load(write_2(tmp_path / "d", short))


def write_llama(path, **config):
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    t = gemma_tensors()
    stored = {
        "encoder.weight": np.ascontiguousarray(t["W_enc"].T),
        "encoder.bias": t["b_enc"],
        "decoder.weight": np.ascontiguousarray(t["W_dec"].T),
        "decoder.bias": t["b_dec"],
    }
    save_file(stored, path / "checkpoints" / "final.safetensors")
    facts = {
        "d_model": D,
        "d_sae": F,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "jump_relu_threshold": 0.2,
        "dataset_average_activation_norm": {"in": 4.0, "out": 4.0},
        "hook_point_in": "blocks.8.hook_resid_post",
        "hook_point_out": "blocks.8.hook_resid_post",
        **config,
    }
    (path / "hyperparams.json").write_text(json.dumps(facts))
    return path


def test_llama_scope(tmp_path):
    loaded = load(write_llama(tmp_path))
    assert loaded.site == "blocks.8.hook_resid_post"
    assert loaded.model_name == "meta-llama/Llama-3.1-8B"
    s, t = np.float32(D**0.5 / 4.0), gemma_tensors()
    scaled = {"W_enc": t["W_enc"] * s, "W_dec": t["W_dec"] / s, "b_dec": t["b_dec"] / s}
    check(loaded, t | scaled | {"threshold": np.full(F, 0.2, np.float32) * s})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hook_point_out": "blocks.8.hook_mlp_out"}, "transcoder"),
        ({"act_fn": "topk"}, "act_fn 'jumprelu'.*'topk'"),
        ({"norm_activation": "token-wise"}, "norm_activation"),
        ({"jump_relu_threshold": None}, "jump_relu_threshold"),
        ({"d_sae": 99}, "d_sae 99"),
    ],
)
def test_llama_scope_refusals(tmp_path, fields, words):
    with pytest.raises(InputError, match=words):
        load(write_llama(tmp_path, **fields))


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(InputError, match=r"params\.npz \(gemma_scope\)"):
        find_format(tmp_path)


def test_half_precision_is_read(sparsify):
    import ml_dtypes

    path = sparsify / "sae.safetensors"
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(path).items()}
    save_file(tensors, path)
    sae = load(sparsify).sae
    assert sae.W_enc.dtype == jnp.float32
    np.testing.assert_array_equal(sae.W_dec, tensors["W_dec"].astype(np.float32))
