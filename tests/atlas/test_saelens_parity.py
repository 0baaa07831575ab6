"""Every architecture and option against SAELens itself: folders it writes, encoded and decoded."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import sae_lens
import torch
from safetensors.torch import load_file, save_file

from atlas_jax.atlas.formats import load_saelens, save_saelens
from atlas_jax.atlas.sae import decode, encode

D, F, SITE = 24, 64, "blocks.2.hook_resid_post"
SIZES = {"d_in": D, "d_sae": F}


def randomise(sae, seed=0):
    """Weights of a size that leaves some features on and some off; thresholds of both signs."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in (*sae.named_parameters(), *sae.named_buffers()):
            scale = {"W_enc": 1.0, "W_dec": 0.4, "r_mag": 0.5, "b_dec": 0.7}.get(name, 0.5)
            value.copy_(scale * torch.randn_like(value))
        if hasattr(sae, "threshold"):
            sae.threshold.copy_(torch.randn(F))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.copy_(torch.tensor(1.5))
    return sae.eval()


def build(architecture, training=False, **options):
    classes = {
        "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig),
        "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig),
        "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig),
        "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig),
        "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
        "matryoshka_batchtopk": (
            sae_lens.MatryoshkaBatchTopKTrainingSAE,
            sae_lens.MatryoshkaBatchTopKTrainingSAEConfig,
        ),
    }
    kind, config = classes[architecture]
    if architecture == "matryoshka_batchtopk":
        options["matryoshka_widths"] = [16, F]
    sae = kind(config(**SIZES, **options))
    sae.cfg.metadata.hook_name = SITE
    sae.cfg.metadata.model_name = "gpt2-small"
    return randomise(sae)


def activations(offset=1.0):
    x = np.random.default_rng(3).normal(size=(2, 7, D)) * 3 + offset
    return x.astype(np.float32)


def compare(sae, folder, x=None, extra=None, reshape=lambda t: t):
    loaded = load_saelens(folder, extra)
    x = activations() if x is None else x
    with torch.no_grad():
        features = sae.encode(reshape(torch.tensor(x)))
        back = sae.decode(features).reshape(x.shape).numpy()
    wanted = features.numpy()
    got = np.asarray(encode(loaded.sae, jnp.asarray(x)))
    assert 0.02 < (wanted > 0).mean() < 0.9
    np.testing.assert_array_equal(got > 0, wanted > 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    again = decode(loaded.sae, jnp.asarray(got), jnp.asarray(x))
    np.testing.assert_allclose(again, back, rtol=1e-5, atol=2e-5 * np.abs(back).max())
    return loaded


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_architectures_and_normalisations(tmp_path, architecture, normalize, subtract):
    k = {"k": 9} if architecture == "topk" else {}
    sae = build(architecture, normalize_activations=normalize, apply_b_dec_to_input=subtract, **k)
    sae.save_model(tmp_path)
    loaded = compare(sae, tmp_path)
    assert (loaded.site, loaded.model_name) == (SITE, "gpt2-small")
    assert loaded.sae.normalize == normalize


@pytest.mark.parametrize("scaled", [False, True])
def test_rescaling_by_decoder_norms(tmp_path, scaled):
    normalize = "expected_average_only_in" if scaled else "none"
    sae = build("topk", k=9, rescale_acts_by_decoder_norm=True, normalize_activations=normalize)
    sae.save_model(tmp_path)
    if scaled:
        sae.fold_activation_norm_scaling_factor(0.4)
    compare(sae, tmp_path, extra={"norm_scaling_factor": 0.4})


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_scaled_activations_are_folded(tmp_path, architecture):
    sae = build(architecture, normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    sae.fold_activation_norm_scaling_factor(0.37)
    compare(sae, tmp_path, extra={"norm_scaling_factor": 0.37})


def test_a_scale_that_nobody_asks_for_is_not_folded(tmp_path):
    sae = build("standard")
    sae.save_model(tmp_path)
    compare(sae, tmp_path, extra={"norm_scaling_factor": 0.37})


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batch_top_k_for_use_and_for_training(tmp_path, architecture, rescale):
    sae = build(architecture, k=5, rescale_acts_by_decoder_norm=rescale)
    sae.save_inference_model(tmp_path / "use")
    sae.save_model(tmp_path / "training")
    assert json.loads((tmp_path / "use" / "cfg.json").read_text())["architecture"] == "jumprelu"
    inference = sae_lens.SAE.load_from_disk(tmp_path / "use")
    compare(inference, tmp_path / "use")
    loaded = compare(inference, tmp_path / "training")
    assert loaded.sae.architecture == "jumprelu"


def test_hook_z(tmp_path):
    sae = build("jumprelu", reshape_activations="hook_z")
    sae.cfg.metadata.hook_name = "blocks.2.attn.hook_z"
    sae.save_model(tmp_path)
    heads = lambda t: t.reshape(*t.shape[:-1], 4, D // 4)  # noqa: E731
    loaded = compare(sae, tmp_path, reshape=heads)
    assert loaded.site == "blocks.2.attn.hook_z"


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated"])
def test_centred_models(tmp_path, architecture, subtract):
    sae = build(architecture, apply_b_dec_to_input=subtract)
    sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    sae.save_model(tmp_path)
    x = activations(offset=2.0)
    loaded = load_saelens(tmp_path)
    centred = torch.tensor(x - x.mean(-1, keepdims=True))
    with torch.no_grad():
        wanted = sae.encode(centred).numpy()
        assert np.abs(wanted - sae.encode(torch.tensor(x)).numpy()).max() > 0.1
    np.testing.assert_allclose(encode(loaded.sae, jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)


def old(folder, sae, **fields):
    """The folder as versions before 6 wrote it: flat, with other names, and without defaults."""
    sae.save_model(folder)
    config = {"d_in": D, "d_sae": F, "dtype": "float32", "model_name": "gpt2-small"}
    (folder / "cfg.json").write_text(json.dumps({**config, "hook_point": SITE, **fields}))
    return sae_lens.SAE.load_from_disk(folder)


def test_flat_configurations_of_old(tmp_path):
    sae = old(tmp_path, build("standard"))
    assert sae.cfg.apply_b_dec_to_input
    loaded = compare(sae, tmp_path)
    assert loaded.site == SITE and loaded.sae.apply_b_dec_to_input


def test_top_k_by_activation_function(tmp_path):
    fields = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}
    sae = old(tmp_path, build("standard"), **fields)
    assert isinstance(sae, sae_lens.TopKSAE)
    assert compare(sae, tmp_path).sae.k == 7


def test_log_thresholds(tmp_path):
    build("jumprelu").save_model(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}  # not the file's
    theta = tensors.pop("threshold").abs()
    save_file(tensors | {"log_threshold": theta.log()}, path)
    sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**SIZES))
    sae.load_state_dict(tensors | {"threshold": theta})
    compare(sae, tmp_path)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_what_is_saved_here_opens_there(tmp_path, architecture, half):
    k = {"k": 9} if architecture == "topk" else {}
    build(architecture, normalize_activations="layer_norm", **k).save_model(tmp_path / "theirs")
    ours = load_saelens(tmp_path / "theirs")
    place = {"site": ours.site, "model_name": ours.model_name}
    save_saelens(ours.sae, tmp_path / "ours", **place, half=half)
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert theirs.cfg.metadata.hook_name == SITE
    compare(theirs, tmp_path / "ours")


def publish(root, monkeypatch, files):
    """A hub that is a folder, for SAELens; a list of where it looks for its files."""
    import sae_lens.loading.pretrained_sae_loaders as loaders
    from huggingface_hub.utils import EntryNotFoundError
    from safetensors import safe_open

    for path, write in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write(root / path)

    def download(repo_id, filename, subfolder=None, force_download=False, **_):
        path = root / repo_id.split("/")[1] / (subfolder or "") / filename
        if not path.exists():
            raise EntryNotFoundError(str(path))
        return str(path)

    def shapes(repo_id, filename):
        with safe_open(download(repo_id, filename), "np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)


def raw(d, f, small=False):
    r = np.random.default_rng(0)
    shapes = {"W_enc": (d, f), "W_dec": (f, d), "b_enc": (f,), "b_dec": (d,), "threshold": (f,)}
    made = {name: r.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return {(n.replace("W_", "w_") if small else n): value for n, value in made.items()}


def same(release, sae_id, folder, d):
    """What SAELens makes of a release, and what is made of its folder here."""
    from atlas_jax.atlas.formats import SAE_FORMATS, find_format

    theirs = sae_lens.SAE.from_pretrained(release, sae_id)
    theirs.turn_off_forward_pass_hook_z_reshaping()  # heads lie side by side here
    ours = SAE_FORMATS[find_format(folder)].load(folder)
    x = np.random.default_rng(3).normal(size=(5, d)).astype(np.float32)
    with torch.no_grad():
        features = theirs.encode(torch.tensor(x))
        back = theirs.decode(features).numpy()
    got = encode(ours.sae, jnp.asarray(x))
    size = float(features.max())
    np.testing.assert_allclose(got, features.numpy(), rtol=1e-5, atol=1e-5 * size)
    np.testing.assert_allclose(
        decode(ours.sae, got), back, rtol=1e-5, atol=1e-5 * np.abs(back).max()
    )
    assert ours.site == theirs.cfg.metadata.hook_name
    return ours, theirs.cfg.metadata.model_name


def test_gemma_scope_as_saelens_loads_it(tmp_path, monkeypatch):
    release, d = "gemma-scope-2b-pt-att", 2048  # SAELens takes sizes from names, not from the file
    ids = sae_lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()
    sae_id = next(i for i in ids[release].saes_map if "layer_20/width_16k" in i)
    folder = tmp_path / release / sae_id
    publish(tmp_path, monkeypatch, {folder / "params.npz": lambda p: np.savez(p, **raw(d, 16384))})
    ours, model = same(release, sae_id, folder, d)
    assert ours.model_name == f"google/{model}"


@pytest.mark.parametrize(
    ("release", "sae_id", "module"),
    [
        ("gemma-scope-2-1b-pt-res", "layer_13_width_16k_l0_big", "model.layers.13.output"),
        ("gemma-scope-2-270m-pt-att", "layer_12_width_16k_l0_big", ""),
    ],
)
def test_gemma_scope_2_as_saelens_loads_it(tmp_path, monkeypatch, release, sae_id, module):
    repository = release.rpartition("-")[0]
    part = {"res": "resid_post", "att": "attn_out"}[release.rpartition("-")[2]]
    folder = tmp_path / repository / part / sae_id
    config = {"architecture": "jump_relu", "hf_hook_point_in": module}
    config["model_name"] = "gemma-v3-1b-pt"
    files = {folder / "params.safetensors": lambda path: save_tensors(raw(24, 64, True), path)}
    if module:
        files[folder / "config.json"] = lambda path: path.write_text(json.dumps(config))
    publish(tmp_path, monkeypatch, files)
    ours, model = same(release, sae_id, folder, 24)
    assert ours.model_name == model


def save_tensors(tensors, path):
    save_file({name: torch.tensor(value) for name, value in tensors.items()}, path)


def test_llama_scope_as_saelens_loads_it(tmp_path, monkeypatch):
    folder = tmp_path / "Llama3_1-8B-Base-LXR-8x" / "Llama3_1-8B-Base-L8R-8x"
    facts = {"jump_relu_threshold": 0.2, "d_model": 4096, "d_sae": 64}
    # SAELens folds a factor from its own table; the file's norm gives the same one.
    scale = sae_lens.loading.pretrained_saes_directory.get_norm_scaling_factor(
        "llama_scope_lxr_8x", "l8r_8x"
    )
    facts["dataset_average_activation_norm"] = {"in": 64 / scale}
    facts |= {"hook_point_in": "blocks.8.hook_resid_post"}
    t = raw(4096, 64)
    stored = {"encoder.bias": t["b_enc"], "decoder.bias": t["b_dec"]}
    stored["encoder.weight"] = np.ascontiguousarray(t["W_enc"].T)
    stored["decoder.weight"] = np.ascontiguousarray(t["W_dec"].T)
    # They are stored, and read by SAELens, in bfloat16.
    half = {name: torch.tensor(value).bfloat16() for name, value in stored.items()}
    files = {
        folder / "hyperparams.json": lambda path: path.write_text(json.dumps(facts)),
        folder / "checkpoints" / "final.safetensors": lambda path: save_file(half, path),
    }
    publish(tmp_path, monkeypatch, files)
    ours, model = same("llama_scope_lxr_8x", "l8r_8x", folder, 4096)
    assert ours.model_name == model
