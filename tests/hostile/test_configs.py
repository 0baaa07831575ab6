"""Configurations: of models, autoencoders, verbalizers, tokenizers; any value may be anything."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from atlas_jax.atlas.formats import SAE_FORMATS
from atlas_jax.models.families import read_arch
from atlas_jax.models.gguf.convert import convert_gguf
from atlas_jax.models.language_model import load_model
from atlas_jax.models.tokenizer import Tokenizer
from atlas_jax.verbalize.injection import Adapter
from atlas_jax.verbalize.sidecar import from_config, read_sidecar

from .mutations import cases, misled, refused, spoiled, wrong

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
_NORMED = {**LLAMA, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4}
_GEMMA3 = {
    **{key: value for key, value in _NORMED.items() if key not in ("hidden_act", "model_type")},
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
    },
}
CONFIGS = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": None},
    "qwen2": {**LLAMA, "model_type": "qwen2", "use_sliding_window": False},
    "qwen3": {**LLAMA, "model_type": "qwen3", "use_sliding_window": False},
    "olmo2": {**LLAMA, "model_type": "olmo2"},
    "phi3": {**LLAMA, "model_type": "phi3", "pad_token_id": 0},
    "gemma": {**LLAMA, "model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"},
    "gemma3_text": {**_GEMMA3, "model_type": "gemma3_text"},
    "gemma3": {"model_type": "gemma3", "text_config": {**_GEMMA3, "model_type": "gemma3_text"}},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 8,
        "n_head": 2,
        "n_layer": 2,
        "n_positions": 64,
        "vocab_size": 64,
    },
    "gpt_neox": {**LLAMA, "model_type": "gpt_neox", "layer_norm_eps": 1e-5, "rotary_pct": 0.5},
}
for _name in ("gpt_neox",):
    for _key in ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters"):
        del CONFIGS[_name][_key]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configs")


@pytest.mark.parametrize("family", CONFIGS)
def test_the_configs_are_good_as_they_are(family):
    arch = read_arch(CONFIGS[family])
    assert (arch.n_layers, arch.d_model) == (2, 8)


@cases
@given(data=st.data(), family=st.sampled_from(sorted(CONFIGS)))
def test_a_config_of_any_values(data, family):
    config = data.draw(misled(CONFIGS[family]))
    if isinstance(config, dict):
        refused(lambda: hash(read_arch(config)))


@cases
@given(config=misled(LLAMA), generation=misled({"eos_token_id": [1, 2]}))
def test_a_model_folder_of_any_config(folder, config, generation):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "model.safetensors").write_bytes(save({"a": np.ones(2, np.float32)}))
    assert refused(lambda: load_model(folder))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{", b"[]", b'{"a":1e999}'])
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    assert refused(lambda: load_model(folder))


D, F = 3, 5
_RNG = np.random.default_rng(0)
W = {
    "W_enc": _RNG.standard_normal((D, F)).astype(np.float32),
    "W_dec": _RNG.standard_normal((F, D)).astype(np.float32),
    "b_enc": np.zeros(F, np.float32),
    "b_dec": np.zeros(D, np.float32),
}
THETA = {"threshold": np.ones(F, np.float32)}
_LINEAR = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"]}


def _write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".pt":
        torch.save({name: torch.tensor(value) for name, value in tensors.items()}, path)
    else:
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        path.write_bytes(save(arrays))


# Format: its configuration, and its tensors.
AUTOENCODERS = {
    "saelens": (
        {
            "architecture": "topk",
            "d_in": D,
            "d_sae": F,
            "k": 2,
            "hook_name": "blocks.1.hook_resid_post",
            "model_name": "m",
            "apply_b_dec_to_input": True,
            "normalize_activations": "expected_average_only_in",
            "norm_scaling_factor": 2.0,
            "activation_fn_kwargs": {"k": 2},
            "max_norm": 9.0,
            "metadata": {"neuronpedia_id": "a/b", "model_from_pretrained_kwargs": {}},
        },
        W,
    ),
    "gemma_scope": ({"hook_name": "blocks.1.hook_resid_post", "model_name": "m"}, {**W, **THETA}),
    "gemma_scope_2": (
        {
            "architecture": "jump_relu",
            "hf_hook_point_in": "model.layers.3.output",
            "model_name": "gemma-v3-1b",
        },
        {**W, **THETA},
    ),
    "llama_scope": (
        {
            "hook_point_in": "blocks.1.hook_resid_post",
            "hook_point_out": "blocks.1.hook_resid_post",
            "act_fn": "jumprelu",
            "jump_relu_threshold": 0.5,
            "dataset_average_activation_norm": {"in": 2.0},
            "d_model": D,
            "d_sae": F,
        },
        {**_LINEAR, "decoder.weight": W["W_dec"].T, "decoder.bias": W["b_dec"]},
    ),
    "sparsify": (
        {"k": 2, "d_in": D, "num_latents": F, "hookpoint": "layers.1", "model_name": "m"},
        {**_LINEAR, "W_dec": W["W_dec"], "b_dec": W["b_dec"]},
    ),
    "dictionary_learning": (
        {
            "trainer": {
                "dict_class": "AutoEncoderTopK",
                "k": 2,
                "submodule_name": "resid_post_layer_1",
                "lm_name": "m",
            }
        },
        {**_LINEAR, "decoder.weight": W["W_dec"].T, "b_dec": W["b_dec"]},
    ),
}


def _autoencoder(folder: Path, name: str, config, tensors) -> Path:
    kind, inner = SAE_FORMATS[name], folder / name
    inner.mkdir(exist_ok=True)
    _write(inner / kind.weights, tensors)
    if kind.configs:
        (inner / kind.configs[0]).write_text(json.dumps(config))
    return inner


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_autoencoders_are_good_as_they_are(folder, name):
    config, tensors = AUTOENCODERS[name]
    loaded = SAE_FORMATS[name].load(_autoencoder(folder, name, config, tensors), {})
    assert loaded.sae.n_features == F


@cases
@given(data=st.data(), name=st.sampled_from(sorted(AUTOENCODERS)))
def test_an_autoencoder_of_any_configuration(folder, data, name):
    config, tensors = AUTOENCODERS[name]
    config = data.draw(misled(config))
    inner = _autoencoder(folder, name, config, tensors)
    extra = config if isinstance(config, dict) and not SAE_FORMATS[name].configs else {}
    refused(lambda: SAE_FORMATS[name].load(inner, extra))


_ODD = (
    *(np.zeros(0, np.float32), np.zeros((0, 0), np.float32), np.ones((2, 3), np.float32)),
    *(np.array(np.nan, np.float32), np.full((F, D), np.inf, np.float32), np.ones(F, np.int64)),
    *(np.array(-1.0, np.float32), np.ones((F, D), np.float16), np.ones((1, F, D), np.float32)),
    *(np.ones((F, D), bool), np.array(2**40, np.int64)),
)


@cases
@given(data=st.data(), name=st.sampled_from(sorted(AUTOENCODERS)), odd=st.sampled_from(_ODD))
def test_an_autoencoder_of_any_tensors(folder, data, name, odd):
    config, tensors = AUTOENCODERS[name]
    key = data.draw(
        st.sampled_from([*tensors, "k", "threshold", "scaling_factor", "log_threshold"])
    )
    refused(
        lambda: SAE_FORMATS[name].load(
            _autoencoder(folder, name, config, {**tensors, key: odd}), {}
        )
    )


SIDECAR = {
    "kind": "nla_model",
    "role": "av",
    "schema_version": 2,
    "base_model": "m",
    "d_model": 8,
    "extraction_layer_index": 1,
    "prompt_templates": {"av": "Say what {injection_char} means."},
    "tokens": {
        "injection_char": "x",
        "injection_token_id": 5,
        "injection_left_neighbor_id": 4,
        "injection_right_neighbor_id": 6,
    },
    "extraction": {"injection_scale": "sqrt_d_model"},
    "decode": {"temperature": 0.5, "max_new_tokens": 20, "stop_strings": ["</explanation>"]},
    "parse": {"open": "<e>", "close": "</e>", "part": "full"},
    "injection": {"mode": "replace_residual", "layer": 1},
}


def _sidecar(folder: Path, content: bytes) -> Path:
    inner = folder / "sidecar"
    inner.mkdir(exist_ok=True)
    (inner / "nla_meta.yaml").write_bytes(content)
    return inner


def test_the_sidecar_is_good_as_it_is(folder):
    assert read_sidecar(_sidecar(folder, yaml.safe_dump(SIDECAR).encode())).block == 1


@cases
@given(data=misled(SIDECAR))
def test_a_sidecar_of_any_values(folder, data):
    content = json.dumps(data).encode()  # JSON is YAML
    refused(lambda: read_sidecar(_sidecar(folder, content)))


@cases
@given(content=spoiled(yaml.safe_dump(SIDECAR).encode()))
def test_a_sidecar_of_any_bytes(folder, content):
    refused(lambda: read_sidecar(_sidecar(folder, content)))


@pytest.mark.parametrize(
    "content",
    [
        b"a: &a [1]\nb: *a\n",
        b"a: &a [*a]\n",
        b"[" * 20_000,
        b"role: !!python/object/apply:os.system ['touch run']\n",
        b"d_model: 0x" + b"f" * 9000,
        b"? [a]\n: 1\n",
    ],
)
def test_yaml_that_would_grow_or_run(folder, content):
    assert refused(lambda: read_sidecar(_sidecar(folder, content)))


@cases
@given(
    entry=misled(
        {
            "reads": {"model": "m", "block": 1, "d_model": 8, "hidden_states_index": 2},
            "injection": {"mode": "replace_embedding", "scale": 2.0, "marker": {"char": "x"}},
            "prompt": {"template": "from_sidecar"},
            "decode": {"temperature": 0.0},
            "parse": {"open": "<", "close": ">"},
        }
    )
)
def test_a_config_entry_of_any_values(folder, entry):
    def read():
        from atlas_jax.verbalize.verbalizer import load_verbalizer

        load_verbalizer("x", config=entry, load_model=None)

    if isinstance(entry, dict):
        refused(read)
    assert from_config({}) == {}


@cases
@given(content=spoiled(save({"prefix": W["W_dec"], "projection": W["W_enc"]})))
def test_an_adapter_of_any_bytes(folder, content):
    (folder / "adapter.safetensors").write_bytes(content)
    refused(lambda: Adapter(folder / "adapter.safetensors"))


@pytest.fixture(scope="module")
def tokenizer_files(tiny_tokenizer):
    return {path.name: path.read_bytes() for path in sorted(tiny_tokenizer.iterdir())}


@cases
@given(data=st.data())
def test_tokenizer_files_of_any_content(folder, tokenizer_files, data):
    inner = folder / "tokenizer"
    inner.mkdir(exist_ok=True)
    for path in inner.iterdir():
        path.unlink()
    name = data.draw(st.sampled_from(sorted(tokenizer_files)))
    for each, content in tokenizer_files.items():
        if each == name:
            if data.draw(st.booleans()):
                content = json.dumps(data.draw(misled(json.loads(content)))).encode()
            else:
                content = data.draw(spoiled(content))
        (inner / each).write_bytes(content)
    refused(lambda: Tokenizer(inner))


FIELDS = {
    "block_count": 1,
    "context_length": 8,
    "embedding_length": 8,
    "attention.head_count": 2,
    "feed_forward_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
    "attention.key_length": 4,
}


@cases
@given(value=wrong, key=st.sampled_from(sorted(FIELDS)))
def test_a_gguf_header_of_any_value(folder, value, key):
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, number in {**FIELDS, key: value}.items():
        name = f"llama.{name}"
        if isinstance(number, bool):
            writer.add_bool(name, number)
        elif isinstance(number, int):
            writer.add_uint64(name, number % 2**64)
        elif isinstance(number, float):
            writer.add_float64(name, number)
        elif isinstance(number, str) and number.isprintable():
            writer.add_string(name, number)
        elif isinstance(number, list):
            writer.add_array(name, [2**31 - 1] * max(1, len(number)))
    writer.add_tensor("token_embd.weight", np.ones((3, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert refused(lambda: convert_gguf(path, folder / "converted"))
