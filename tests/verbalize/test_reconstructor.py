"""Reconstructors, as transformers saves them, against transformers itself."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas_jax.errors import InputError
from atlas_jax.verbalize.quirks import round_trip
from atlas_jax.verbalize.reconstructor import load_reconstructor

TEMPLATE = "A summary of the text: <text>{explanation}</text> <summary>"
TEXTS = ["cats", "two dogs and a river in the garden", ""]
BLOCK = 1


def kept(name: str) -> bool:
    """The embedding and the first two blocks."""
    layer = re.search(r"layers\.(\d+)\.", name)
    return int(layer[1]) <= BLOCK if layer else "embed_tokens" in name


@pytest.fixture(params=["tiny_llama", "tiny_gemma3"])
def reconstructor(request, tmp_path):
    """The first two blocks of a model without final norm and unembedding, and a head; and what
    transformers makes of the texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = request.getfixturevalue(request.param)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    tensors = {n: v.clone().contiguous() for n, v in whole.state_dict().items() if kept(n)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": BLOCK + 1}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: BLOCK + 1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    head = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32))
    save_file({"weight": head}, tmp_path / "value_head.safetensors")
    tokens = AutoTokenizer.from_pretrained(base)
    suffix = tokens(" <summary>", add_special_tokens=False)["input_ids"][-3:]
    sidecar = {
        "kind": "nla_model",
        "role": "ar",
        "extraction_layer_index": BLOCK,
        "tokens": {"critic_suffix_ids": suffix},
        "prompt_templates": {"ar": TEMPLATE},
    }
    (tmp_path / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar))
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tokens(TEMPLATE.format(explanation=text))["input_ids"]])
        with torch.no_grad():
            states = whole(ids, output_hidden_states=True).hidden_states[BLOCK + 1]
        expected.append((states[0, -1] @ head.T).numpy())
    return tmp_path, np.stack(expected)


def test_it_rebuilds_what_transformers_does(reconstructor):
    folder, expected = reconstructor
    found = load_reconstructor(folder).rebuild(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(round_trip(found, expected, np.eye(32)[0]), 1, atol=1e-4)


def test_wrong_folders_are_named(reconstructor):
    folder, _ = reconstructor

    def change(**values):
        path = folder / "nla_meta.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))

    change(tokens={"critic_suffix_ids": [1, 2]})
    with pytest.raises(InputError, match="prompts that end in the tokens"):
        load_reconstructor(folder).rebuild(TEXTS)
    change(extraction_layer_index=2)
    with pytest.raises(InputError, match="more than 2 layers"):
        load_reconstructor(folder)
    change(prompt_templates={"ar": "no place"})
    with pytest.raises(InputError, match="once and extraction_layer_index"):
        load_reconstructor(folder)
    change(role="av")
    with pytest.raises(InputError, match="role ar or critic"):
        load_reconstructor(folder)
    head = load_file(folder / "value_head.safetensors")["weight"]
    save_file({"a": head, "b": head.clone()}, folder / "value_head.safetensors")
    change(role="ar", prompt_templates={"ar": TEMPLATE}, extraction_layer_index=1)
    with pytest.raises(InputError, match="Could not read one matrix"):
        load_reconstructor(folder)
    (folder / "nla_meta.yaml").unlink()
    with pytest.raises(InputError, match="nla_meta.yaml in"):
        load_reconstructor(folder)
