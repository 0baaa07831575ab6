"""Exported vectors: read by their consumers, they steer as this project does."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open

from atlas_jax.errors import InputError
from atlas_jax.export import SNIPPETS, export_translation, export_vectors, residual_directions
from atlas_jax.models import Edit
from atlas_jax.translate import Translation

POINTS = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)


def edit(model, site, strength=2.0, mode="add", seed=0):
    s = np.random.default_rng(seed).standard_normal(model.width(site)).astype(np.float32)
    return Edit(site, s / np.linalg.norm(s), strength, mode)


def ours(model, ids, edits=()):
    """Every point is edited, most of them by nothing: one executable for all tests of a model."""
    tokens = np.array([ids], np.int32)
    used = {e.site.split(".", 2)[2] for e in edits}
    still = [edit(model, f"blocks.1.{p}", 0.0) for p in POINTS if p not in used]
    return np.asarray(model(tokens, np.ones_like(tokens, bool), edits=[*edits, *still])[0][0])


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def same(found, expected, plain):
    scale = np.abs(expected).max()
    assert np.abs(expected - plain).max() > 0.01 * scale
    np.testing.assert_allclose(found, expected, atol=3e-5 * scale)


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pt"])
def test_tensors_come_back_with_their_facts(models, translation, tmp_path, ending):
    sites = ("blocks.1.mlp.hook_post", "blocks.2.hook_resid_post")
    edits = [edit(models["llama"], site, 3.0, "steer") for site in sites]
    about = {"query": {"name": "dogs"}}
    (path,) = export_vectors(edits, tmp_path / f"v{ending}", about=about)
    whole = export_translation(translation, tmp_path / f"t{ending}")
    if ending == ".safetensors":
        with safe_open(path, framework="np") as file:
            found = {site: file.get_tensor(site) for site in sites}
            meta = {k: v for k, v in file.metadata().items() if k != "format"}
            meta = {key: json.loads(value) for key, value in meta.items()}
        assert Translation.load(whole).meta == translation.meta
        matrix = Translation.load(whole).matrix
    elif ending == ".npz":
        found, matrix = dict(np.load(path)), np.load(whole)["matrix"]
        meta = json.loads(str(found.pop("meta")))
        assert json.loads(str(np.load(whole)["meta"]))["subject"] == translation.meta["subject"]
    else:
        found = torch.load(path, weights_only=True)
        meta = json.loads(found.pop("meta"))
        found = {site: tensor.numpy() for site, tensor in found.items()}
        matrix = torch.load(whole, weights_only=True)["matrix"].numpy()
    np.testing.assert_array_equal(matrix, translation.matrix)
    assert set(found) == set(sites)
    for e in edits:
        np.testing.assert_array_equal(found[e.site], e.vector)
        assert found[e.site].dtype == np.float32
    assert meta["query"] == {"name": "dogs"}
    assert meta["steering"] == [{"site": s, "strength": 3.0, "mode": "steer"} for s in sites]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, whole.name])


@pytest.mark.parametrize(
    ("family", "site", "layer"),
    [
        ("llama", "blocks.1.hook_resid_post", 1),
        ("llama", "blocks.2.hook_resid_pre", 1),
        ("llama", "blocks.2.hook_mlp_out", 2),
        ("llama", "blocks.1.mlp.hook_post", 1),
        ("gemma3", "blocks.3.hook_mlp_out", 3),
    ],
)
def test_a_control_vector_added_by_torch_steers_as_the_edit(
    models, theirs, ids, tmp_path, family, site, layer
):
    model = models[family]
    change = edit(model, site)
    (path,) = export_vectors([change], tmp_path / "v.gguf", model=model, about={"query": "dogs"})
    reader = GGUFReader(path)
    text = {key: field.contents() for key, field in reader.fields.items()}
    assert text["general.architecture"] == "controlvector"
    assert text["controlvector.model_hint"] == family
    assert text["controlvector.layer_count"] == 1 and site in text["general.description"]
    assert json.loads(text["atlas_jax.about"]) == {"query": "dogs"}
    (tensor,) = reader.tensors
    assert tensor.name == f"direction.{layer}"
    assert tensor.data.dtype == np.float32 and tensor.data.shape == (32,)
    added = torch.tensor(np.array(tensor.data))
    block = theirs[family].get_submodule("model.layers")[layer]
    handle = block.register_forward_hook(
        lambda m, i, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
    )
    try:
        found = logits(theirs[family], ids)
    finally:
        handle.remove()
    same(found, ours(model, ids, [change]), ours(model, ids))


def test_edits_of_one_layer_are_added_up(models):
    model = models["llama"]
    sites = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")
    edits = [edit(model, site, 1.0 + i, seed=i) for i, site in enumerate(sites)]
    found, notes = residual_directions(edits, model)
    expected = edits[0].vector.astype(np.float64) + 2.0 * edits[1].vector
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    np.testing.assert_allclose(found[2], 3.0 * edits[2].vector, rtol=1e-6)
    assert set(found) == {1, 2} and len(notes) == 3


def test_neurons_before_a_norm_are_refused_unless_asked(models):
    model = models["gemma3"]
    change = edit(model, "blocks.2.mlp.hook_post")
    with pytest.raises(InputError, match="a norm follows the MLP"):
        residual_directions([change], model)
    found, (note,) = residual_directions([change], model, approximate=True)
    assert "Approximate" in note
    weights = {k: np.asarray(v, np.float64) for k, v in _gemma_weights(model).items()}
    expected = 2.0 * weights["norm"] * (weights["down"] @ change.vector.astype(np.float64))
    np.testing.assert_allclose(found[2], expected, rtol=1e-5, atol=1e-6)


def _gemma_weights(model):
    """As the checkpoint has them."""
    import flax.nnx as nnx

    block = nnx.merge(model.graph, model.state).blocks
    return {"norm": 1 + block.post_mlp.weight[...][2], "down": block.down.kernel[...][2].T}


@pytest.mark.parametrize(
    ("site", "mode", "message"),
    [
        ("blocks.0.hook_resid_post", "add", "after block 0"),
        ("blocks.1.hook_resid_pre", "add", "after block 0"),
        ("blocks.1.attn.hook_z", "add", "residual sites or MLP neurons"),
        ("blocks.1.hook_resid_post", "steer", "ask for mode add .or ask"),
        ("blocks.1.hook_resid_post", "clamp", "cannot clamp: ask for mode add.$"),
    ],
)
def test_what_is_no_addition_to_the_stream_is_refused(models, tmp_path, site, mode, message):
    change = edit(models["llama"], site, mode=mode)
    with pytest.raises(InputError, match=message) as caught:
        export_vectors([change], tmp_path / "v.gguf", model=models["llama"])
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_steering_as_a_control_vector_says_that_it_is_approximate(models):
    model = models["llama"]
    change = edit(model, "blocks.1.hook_resid_post", mode="steer")
    found, notes = residual_directions([change], model, approximate=True)
    np.testing.assert_allclose(found[1], 2 * change.vector, rtol=1e-6)
    assert "not kept" in notes[-1]


def script(model, edits, folder, library):
    files = export_vectors(edits, folder / f"{library}.py", library=library)
    assert [p.suffix for p in files] == [".safetensors", ".py"]
    found = runpy.run_path(str(files[1]))
    assert "torch, safetensors and" in found["__doc__"]
    assert f"python {library}.py MODEL" in found["__doc__"]
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("mode", ["steer", "add", "ablate", "clamp"])
def test_the_script_for_transformers(models, theirs, ids, tmp_path, family, mode):
    model = models[family]
    edits = [edit(model, f"blocks.{1 + i % 2}.{p}", 2.0, mode, i) for i, p in enumerate(POINTS)]
    found = script(model, edits, tmp_path, "transformers")
    handles = found["attach"](theirs[family])
    try:
        steered = logits(theirs[family], ids)
    finally:
        [handle.remove() for handle in handles]
    plain = logits(theirs[family], ids)
    same(steered, ours(model, ids, edits), plain)
    np.testing.assert_allclose(plain, ours(model, ids), atol=3e-5 * np.abs(plain).max())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_script_for_transformer_lens(models, theirs, tiny_tokenizer, ids, tmp_path, family):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    model = models[family]
    edits = [edit(model, f"blocks.{1 + i % 2}.{p}", 2.0, "steer", i) for i, p in enumerate(POINTS)]
    found = script(model, edits, tmp_path, "transformer_lens")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    bridge = TransformerBridge.boot_transformers(
        theirs[family].name_or_path, hf_model=theirs[family], tokenizer=tokenizer
    )
    with torch.no_grad():
        steered = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=found["hooks"]())
    same(steered[0].numpy(), ours(model, ids, edits), ours(model, ids))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_script_for_nnsight(models, theirs, tiny_tokenizer, ids, tmp_path, family):
    from nnsight import LanguageModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = models[family]
    edits = [edit(model, f"blocks.{1 + i % 2}.{p}", 2.0, "steer", i) for i, p in enumerate(POINTS)]
    found = script(model, edits, tmp_path, "nnsight")
    # One of its own: TransformerLens's bridge leaves marks on the model that it was given.
    theirs = AutoModelForCausalLM.from_pretrained(
        theirs[family].name_or_path, attn_implementation="eager", dtype=torch.float32
    )
    traced = LanguageModel(theirs, tokenizer=AutoTokenizer.from_pretrained(tiny_tokenizer))
    with traced.trace(torch.tensor([ids])):
        found["steer"](traced)
        steered = traced.lm_head.output.save()
    same(steered[0].detach().numpy(), ours(model, ids, edits), ours(model, ids))


def test_every_script_is_python_and_needs_nothing_of_ours():
    for text in SNIPPETS.values():
        compile(text, "snippet", "exec")
        assert "import atlas_jax" not in text


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("v.txt", {}, "ending in .safetensors, .npz, .pt, .gguf, .py, got 'v.txt'"),
        ("v.gguf", {}, "pass model="),
        ("v.py", {"library": "keras"}, "transformer_lens, transformers, nnsight, got 'keras'"),
    ],
)
def test_what_cannot_be_written_is_refused(models, tmp_path, name, more, message):
    change = edit(models["llama"], "blocks.1.hook_resid_post")
    with pytest.raises(InputError, match=message):
        export_vectors([change], tmp_path / name, **more)
    with pytest.raises(InputError, match="one edit for each site"):
        export_vectors([change, change], tmp_path / "v.npz")
    mid = edit(models["llama"], "blocks.1.hook_resid_mid")
    with pytest.raises(InputError, match="ask for transformer_lens"):
        export_vectors([mid], tmp_path / "v.py", library="nnsight")
    assert not list(tmp_path.iterdir())


def test_without_torch_the_other_kinds_are_named(models, translation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="pip install torch"):
        export_translation(translation, tmp_path / "t.pt")
    assert not list(tmp_path.iterdir())
