"""Checkpoints that are not what their config says, each refused by the tensor's name."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from atlas_jax.errors import InputError
from atlas_jax.models import load_model, read_arch
from atlas_jax.models.checkpoint import Checkpoint
from atlas_jax.models.weights import load_decoder

DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture
def changed(tiny_llama, tmp_path):
    """Writes a copy of the tiny checkpoint whose tensors a function has changed."""

    def make(change):
        folder = tmp_path / "copy"
        shutil.copytree(tiny_llama, folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def load(folder):
    arch = read_arch(json.loads((folder / "config.json").read_text()))
    return load_decoder(Checkpoint(folder), arch)


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_tensor_lands_in_its_place(tiny_llama):
    tensors, decoder = load_file(tiny_llama / "model.safetensors"), load(tiny_llama)
    np.testing.assert_array_equal(decoder.blocks.down.kernel[...][2], tensors[DOWN].T)
    np.testing.assert_array_equal(decoder.head.kernel[...], tensors["lm_head.weight"].T)
    np.testing.assert_array_equal(decoder.embed[...], tensors["model.embed_tokens.weight"])


def test_missing_and_extra_tensors_are_named(changed):
    message = refusal(changed(lambda t: t.update(surprise=t.pop(DOWN))))
    assert f"1 missing ({DOWN})" in message and "1 unexpected (surprise)" in message


def test_a_misshaped_tensor_is_named_with_both_shapes(changed):
    message = refusal(changed(lambda t: t.update({DOWN: np.ascontiguousarray(t[DOWN].T)})))
    assert DOWN in message and "(32, 56)" in message and "(56, 32)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(changed, value):
    def spoil(tensors):
        tensors[DOWN] = tensors[DOWN].copy()
        tensors[DOWN][3, 5] = value

    assert DOWN in refusal(changed(spoil))


def test_old_inverse_frequencies_are_harmless(changed):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    load(changed(lambda t: t.update(extra)))


def test_shards_and_one_file_are_the_same_model(tiny_llama, tmp_path):
    tensors = load_file(tiny_llama / "model.safetensors")
    shutil.copytree(tiny_llama, tmp_path / "shards")
    folder = tmp_path / "shards"
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({n: tensors[n] for n in names if where[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    np.testing.assert_array_equal(
        load(folder).blocks.down.kernel[...], load(tiny_llama).blocks.down.kernel[...]
    )
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors" in refusal(folder)


def test_damaged_and_absent_files_are_named(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "It is damaged: delete it" in refusal(tmp_path / "copy")
    file.unlink()
    assert "found none" in refusal(tmp_path / "copy")


def test_references_that_lead_nowhere_are_refused(tmp_path, tiny_llama):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found neither"):
        load_model(tmp_path / "empty")
    with pytest.raises(InputError, match="no/such-model"):
        load_model("no/such-model")
    with pytest.raises(InputError, match="got 'what is this'"):
        load_model("what is this")
    with pytest.raises(InputError, match="got 'float8'"):
        load_model(tiny_llama, dtype="float8")
    shutil.copytree(tiny_llama, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(tmp_path / "copy")
