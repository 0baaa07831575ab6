"""Every family, written as llama.cpp's converter writes it, comes back as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from atlas_jax.models import load_model
from atlas_jax.models.gguf import convert_gguf

FAMILIES = (
    *("llama", "llama_biased", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("gpt2", "gpt_neox", "gpt_neox_serial", "olmo2", "phi3"),
)
# And Qwen 3, in whose header it does not read the width of a head.
READ_BY_TRANSFORMERS = ("llama", "mistral", "qwen2", "gemma2", "gemma3_text", "gpt2", "phi3")
# Of GPT-2's header it reads neither the width of the MLP nor the number of positions.
WIDE = {
    "config": {"n_inner": 128, "n_positions": 1024},
    "tensors": {
        "transformer.wpe.weight": [1024, 32],
        "transformer.h.{}.mlp.c_fc.weight": [32, 128],
        "transformer.h.{}.mlp.c_fc.bias": [128],
        "transformer.h.{}.mlp.c_proj.weight": [128, 32],
    },
}
TOKENS = np.arange(3, 43, dtype=np.int32)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_shape_and_logits_are_those_of_the_checkpoint(family, source, tools, tmp_path):
    folder = source(family)
    out = convert_gguf(tools.write(folder, tmp_path / "tiny.gguf"), tmp_path / "out")
    expected, back = tools.read_back(folder), tools.read_back(out)
    assert back.keys() == expected.keys()
    for name, values in expected.items():
        if family.startswith("gemma") and name.endswith("norm.weight"):
            values = (values + np.float32(1)) - np.float32(1)  # what the file has kept of it
        np.testing.assert_array_equal(back[name], values, err_msg=name)
        assert back[name].dtype == np.float32
    ours, original = load_model(out), load_model(folder)
    arch = replace(original.arch, family="llama") if family == "mistral" else original.arch
    assert ours.arch == arch
    mask = np.ones(TOKENS.shape, bool)
    logits, wanted = ours(TOKENS, mask)[0], original(TOKENS, mask)[0]
    if family.startswith("gemma"):
        np.testing.assert_allclose(logits, wanted, atol=2e-6 * np.abs(wanted).max())
    else:
        np.testing.assert_array_equal(logits, wanted)
    texts = ["The cat  sat.", "Ünïcode 🐶\n\n\tx = 42", "<eos> x"]
    assert ours.tokenizer.encode_batch(texts) == original.tokenizer.encode_batch(texts)


@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_the_files_of_these_tests_are_what_transformers_takes_them_for(
    family, source, tools, tmp_path
):
    folder = source(family, WIDE if family == "gpt2" else None)
    tools.write(folder, tmp_path / "tiny.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    ).state_dict()
    for name, values in tools.read_back(folder).items():
        got = theirs[name].numpy()
        np.testing.assert_allclose(got, values, atol=2e-7, rtol=0, err_msg=name)


def test_the_converted_folder_is_one_that_transformers_loads(source, tools, tmp_path):
    folder = source("llama")
    out = convert_gguf(tools.write(folder, tmp_path / "tiny.gguf"), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out)
    for name, values in tools.read_back(folder).items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), values, err_msg=name)
    assert model.config.rope_parameters["factor"] == 8.0


def test_a_mistral_file_of_todays_transformers_says_llama(source, tools, tmp_path):
    out = convert_gguf(tools.write(source("mistral"), tmp_path / "tiny.gguf"), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    ("family", "layers", "scalar"), [("gemma2", 46, 8), ("gemma3_text", 62, 8), ("gemma2", 3, 16)]
)
def test_gemma_27b_scales_its_scores_by_another_width(
    family, layers, scalar, source, tools, tmp_path
):
    kinds = [("sliding_attention", "full_attention")[i % 2] for i in range(layers)]
    patch = {"config": {"num_hidden_layers": layers, "layer_types": kinds}}
    path = tools.write(source(family, patch), tmp_path / "tiny.gguf")
    config = json.loads((convert_gguf(path, tmp_path / "out") / "config.json").read_text())
    assert config["query_pre_attn_scalar"] == scalar


def test_gpt_neox_20b_approximates_its_activation(source, tools, tmp_path):
    patch = {"config": {"num_hidden_layers": 44}}
    path = tools.write(source("gpt_neox", patch), tmp_path / "tiny.gguf")
    assert load_model(convert_gguf(path, tmp_path / "out")).arch.activation == "gelu_tanh"
