"""The layouts that checkpoints of one model come in: all give the same weights."""

import builtins
import json
import pickle
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from atlas_jax.errors import InputError
from atlas_jax.models import load_model


def leaves(model):
    return [np.asarray(leaf.astype("float32")) for leaf in jax.tree.leaves(model.state)]


def same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of a tiny checkpoint without its weights, and the weights."""

    def make(name):
        folder = tmp_path / "copy"
        shutil.copytree(checkpoint(name), folder)
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        return folder, tensors

    return make


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_torch(tensors):
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.pth"])
@pytest.mark.parametrize("name", ["qwen2", "gpt2", "phi3"])
def test_torch_files(pairs, copy, name, file):
    folder, tensors = copy(name)
    torch.save(as_torch(tensors), folder / file)
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    model = load_model(folder)
    same(model, pairs(name).ours)
    assert model.fingerprint != pairs(name).ours.fingerprint
    assert model.fingerprint == load_model(folder).fingerprint


def test_torch_shards_in_bfloat16_and_views(copy, pairs):
    folder, tensors = copy("gemma2")
    # Transposed views are saved with their strides, not laid out anew.
    low = {n: t.T.bfloat16().contiguous().T for n, t in as_torch(tensors).items() if t.ndim == 2}
    low |= {n: t.bfloat16() for n, t in as_torch(tensors).items() if t.ndim != 2}
    where = {n: f"pytorch_model-{i % 2}.bin" for i, n in enumerate(low)}
    for file in sorted(set(where.values())):
        torch.save({n: t for n, t in low.items() if where[n] == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    same(load_model(folder), load_model(pairs("gemma2").folder, dtype="bfloat16"))
    (folder / "pytorch_model-1.bin").unlink()
    assert "pytorch_model-1.bin" in refusal(folder)


def test_the_format_of_old_torch(copy, pairs):
    folder, tensors = copy("gpt2")
    file = folder / "pytorch_model.bin"
    torch.save(as_torch(tensors), file, _use_new_zipfile_serialization=False)
    same(load_model(folder), pairs("gpt2").ours)


def test_torch_files_that_are_refused(copy, monkeypatch):
    folder, tensors = copy("llama")
    file = folder / "pytorch_model.bin"
    file.write_bytes(b"not a model")
    assert "pytorch_model.bin" in refusal(folder)

    class Malice:
        def __reduce__(self):
            return (print, ("code ran",))

    with file.open("wb") as stream:
        pickle.dump({"x": Malice()}, stream)
    assert "could run code" in refusal(folder)
    torch.save(as_torch(tensors), file)
    file.write_bytes(file.read_bytes()[:5000])
    assert "damaged" in refusal(folder)
    torch.save({n: (t * 100).to(torch.int8) for n, t in as_torch(tensors).items()}, file)
    assert "torch.int8" in refusal(folder)
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert "install torch" in refusal(folder)


def test_safetensors_are_preferred(copy, pairs):
    folder, tensors = copy("llama")
    save_file(tensors, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    same(load_model(folder), pairs("llama").ours)


def test_integers_are_refused_by_name(copy):
    folder, tensors = copy("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, folder / "model.safetensors")
    message = refusal(folder)
    assert name in message and "I8" in message


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions(copy, pairs, kind):
    folder, tensors = copy("olmo2")
    save_file({n: t.astype(kind) for n, t in tensors.items()}, folder / "model.safetensors")
    for one, other in zip(leaves(load_model(folder)), leaves(pairs("olmo2").ours), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-8, atol=1e-6)


RENAMED = {
    # As the first multimodal files have it, as transformers 5 does in memory, and without a head.
    "gemma3": [("language_model.model.", "model.language_model.")],
    "gpt2": [("transformer.", "")],
    "gpt_neox": [("embed_out.", "lm_head.")],
    "qwen2": [("model.", "")],
}


@pytest.mark.parametrize("name", RENAMED)
def test_other_names_of_the_same_tensors(copy, pairs, name):
    folder, tensors = copy(name)
    for old, new in RENAMED[name]:
        assert any(key.startswith(old) for key in tensors)
        tensors = {
            new + key.removeprefix(old) if key.startswith(old) else key: value
            for key, value in tensors.items()
        }
    save_file(tensors, folder / "model.safetensors")
    same(load_model(folder), pairs(name).ours)


BUFFERS = {
    "gpt2": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "gpt_neox": ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.2.attention.masked_bias"],
    "llama": ["model.layers.0.self_attn.rotary_emb.inv_freq"],
    "gemma3": ["vision_tower.vision_model.more", "multi_modal_projector.more"],
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_ignored_and_nothing_else(copy, name):
    folder, tensors = copy(name)
    extra = {buffer: np.ones(3, np.uint8) for buffer in BUFFERS[name]}
    save_file(tensors | extra, folder / "model.safetensors")
    load_model(folder)
    save_file(tensors | {"more.weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert "1 unexpected (more.weight)" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("phi3", "model.layers.1.self_attn.qkv_proj.weight"),
        ("gpt_neox", "gpt_neox.layers.2.attention.query_key_value.bias"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight"),
        ("gemma3", "language_model.model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_fused_and_prefixed_tensors_are_named_as_they_are(copy, name, tensor):
    folder, tensors = copy(name)
    file = folder / "model.safetensors"
    bad = tensors[tensor].copy()
    bad.flat[-1] = np.nan
    save_file(tensors | {tensor: bad}, file)
    assert tensor in refusal(folder)
    save_file(tensors | {tensor: tensors[tensor][:-1].copy()}, file)
    message = refusal(folder)
    assert tensor in message and str(tensors[tensor].shape) in message
    save_file({n: t for n, t in tensors.items() if n != tensor}, file)
    assert "1 missing" in refusal(folder)
