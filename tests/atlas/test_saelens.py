"""SAELens folders: round trips, what other versions write, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from atlas_jax.atlas.formats import SAE_FORMATS, load_saelens, save_saelens
from atlas_jax.atlas.sae import SAE, encode
from atlas_jax.errors import InputError

D, F = 6, 10


def make(architecture="jumprelu", k=None) -> SAE:
    r = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(r.normal(size=shape).astype(np.float32))

    theta = jnp.abs(array(F)) if architecture == "jumprelu" else None
    return SAE(array(D, F), array(F), array(F, D), array(D), theta, architecture, k, True)


def change(folder, **fields):
    config = json.loads((folder / "cfg.json").read_text()) | fields
    config["metadata"].pop("sha256")
    (folder / "cfg.json").write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path):
    save_saelens(make(), tmp_path, site="blocks.2.hook_resid_post", model_name="m", max_norm=9.0)
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "k"), [("standard", None), ("jumprelu", None), ("topk", 3)]
)
def test_round_trip(tmp_path, architecture, k):
    sae = make(architecture, k)
    save_saelens(sae, tmp_path, site="blocks.2.hook_resid_post", model_name="m", max_norm=9.0)
    loaded = SAE_FORMATS["saelens"].load(tmp_path)
    assert jax.tree.structure(loaded.sae) == jax.tree.structure(sae)
    for a, b in zip(jax.tree.leaves(loaded.sae), jax.tree.leaves(sae), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (loaded.site, loaded.model_name) == ("blocks.2.hook_resid_post", "m")
    assert loaded.max_norm == 9.0
    assert not list(tmp_path.glob(".*"))


def test_half_keeps_thresholds_and_rounds_matrices(tmp_path):
    sae = make()
    save_saelens(sae, tmp_path, site="s", model_name="m", half=True)
    stored = load_file(tmp_path / "sae_weights.safetensors")
    assert {k: str(v.dtype) for k, v in stored.items()} == {
        "W_enc": "float16", "W_dec": "float16",
        "b_enc": "float32", "b_dec": "float32", "threshold": "float32",
    }  # fmt: skip
    loaded = load_saelens(tmp_path).sae
    assert loaded.W_enc.dtype == jnp.float32
    np.testing.assert_array_equal(loaded.W_enc, np.asarray(sae.W_enc).astype(np.float16))
    np.testing.assert_array_equal(loaded.threshold, sae.threshold)


def test_older_spellings(tmp_path):
    sae = make("standard")
    save_saelens(sae, tmp_path, site="s", model_name="m")
    config = {"d_in": D, "d_sae": F, "hook_name": "blocks.1.hook_resid_pre", "model_name": "gpt2"}
    (tmp_path / "cfg.json").write_text(
        json.dumps(config | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}})
    )
    loaded = load_saelens(tmp_path)
    assert (loaded.sae.architecture, loaded.sae.k) == ("topk", 4)
    assert (loaded.site, loaded.model_name) == ("blocks.1.hook_resid_pre", "gpt2")
    assert int((encode(loaded.sae, jnp.ones(D)) > 0).sum()) <= 4


def test_log_threshold_of_training_files(folder):
    tensors = load_file(folder / "sae_weights.safetensors")
    theta = tensors.pop("threshold")
    save_file(tensors | {"log_threshold": np.log(theta)}, folder / "sae_weights.safetensors")
    np.testing.assert_allclose(load_saelens(folder).sae.threshold, theta, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "gated"}, "r_mag, b_gate, b_mag missing"),
        ({"architecture": "temporal"}, "standard, jumprelu, topk.*got 'temporal'"),
        ({"architecture": "transcoder"}, "transcoder"),
        ({"d_out": 7}, "transcoder"),
        ({"hook_name_out": "blocks.2.hook_mlp_out"}, "transcoder .blocks.2.hook_mlp_out"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening.*fold it"),
        ({"normalize_activations": "expected_average_only_in"}, "norm_scaling_factor"),
        ({"normalize_activations": True}, "norm_scaling_factor"),
        ({"reshape_activations": "hook_z"}, "reshape_activations.*hook_resid_post"),
        ({"hook_head_index": 3}, "single attention head"),
        ({"model_from_pretrained_kwargs": {"fold_value_biases": True}}, "fold_value_biases"),
        ({"activation_fn_kwargs": {"k": 2, "signed": True}}, "signed"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"d_sae": 11}, "d_sae 11, its tensors have 10"),
        ({"d_in": "six"}, "d_in 'six'"),
        ({"architecture": "topk"}, "threshold: is it another"),
    ],
)
def test_refuses_configurations(folder, fields, words):
    change(folder, **fields)
    with pytest.raises(InputError, match=words) as error:
        load_saelens(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("W_dec"), "W_dec missing"),
        (lambda t: t.pop("threshold"), "threshold missing"),
        (lambda t: t.update(b_enc=np.zeros(3, np.float32)), r"b_enc of shape \(10,\).*\(3,\)"),
        (lambda t: t["b_dec"].__setitem__(1, np.nan), "b_dec.*NaN"),
        (lambda t: t.update(b_gate=np.zeros(F, np.float32)), "b_gate"),
        (lambda t: t.update(scaling_factor=np.full(F, 2.0, np.float32)), "scales its features"),
    ],
)
def test_refuses_tensors(folder, damage, words):
    path = folder / "sae_weights.safetensors"
    tensors = {k: v.copy() for k, v in load_file(path).items()}
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=words):
        load_saelens(folder)


def test_refuses_damaged_files(folder, tmp_path):
    with pytest.raises(InputError, match=r"cfg\.json"):
        load_saelens(tmp_path / "nowhere")
    (folder / "sae_weights.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="Could not read safetensors.*download it again"):
        load_saelens(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="Could not read JSON"):
        load_saelens(folder)


def test_refuses_to_save_what_has_no_name(tmp_path):
    with pytest.raises(InputError, match="batchtopk"):
        save_saelens(make("batchtopk", 3), tmp_path, site="s", model_name="m")
