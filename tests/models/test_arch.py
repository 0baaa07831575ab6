"""Configs: both spellings read the same, and nothing unknown passes in silence."""

import json

import pytest
from transformers import Gemma3TextConfig, LlamaConfig

from atlas_jax.errors import InputError
from atlas_jax.models import read_arch
from atlas_jax.models.arch import Rope
from atlas_jax.models.decoder import rope_frequencies

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GEMMA = LLAMA | {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 6}
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_old_and_new_spellings_of_llama_agree():
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **SCALING}}
    new = LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **SCALING}}
    assert read_arch(old) == read_arch(new)
    assert read_arch(old).kinds[0].rope == Rope(5e5, "llama3", 8.0, 1.0, 4.0, 8192)
    assert read_arch(LLAMA | {"rope_theta": 5e5, "rope_scaling": None}) == read_arch(
        LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    )


def test_old_and_new_spellings_of_gemma_agree():
    old = GEMMA | {
        "num_hidden_layers": 4,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 2,
    }
    new = GEMMA | {
        "num_hidden_layers": 4,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    assert read_arch(old) == read_arch(new)
    assert [read_arch(old).kinds[k].window for k in read_arch(old).layer_kinds] == [
        6,
        None,
        6,
        None,
    ]


def test_the_configs_transformers_writes_by_default_are_read(tmp_path):
    for config in (LlamaConfig(), Gemma3TextConfig()):
        config.save_pretrained(tmp_path)
        arch = read_arch(json.loads((tmp_path / "config.json").read_text()))
        assert (arch.d_model, arch.n_layers) == (config.hidden_size, config.num_hidden_layers)
        assert arch.context_length == config.max_position_embeddings
        assert arch.norm_eps == config.rms_norm_eps
        assert hash(arch) == hash(arch)


@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "linear", "factor": 4.0}, {"rope_type": "llama3", **SCALING}]
)
def test_frequencies_equal_transformers(scaling):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": 5e5} | (scaling or {})
    config = LlamaConfig(head_dim=64, rope_parameters=parameters)
    expected = LlamaRotaryEmbedding(config).inv_freq
    got = rope_frequencies(read_arch(config.to_dict()).kinds[0].rope, 64)
    assert got.tolist() == pytest.approx(expected.tolist(), rel=2e-6)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "mamba"}, "model_type='mamba'"),
        ({"model_type": None}, "model_type=None"),
        ({"logit_scale": 0.1, "use_mystery": True}, "logit_scale, use_mystery"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "ramp": 1}}, "ramp"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": None}, "'hidden_size'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change, part):
    with pytest.raises(InputError) as caught:
        read_arch(LLAMA | change)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "linear_att"),
        ({"layer_types": ["full_attention"]}, "3 layers"),
        ({"head_dim": None}, "'head_dim'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "sliding_attention"),
    ],
)
def test_what_gemma_asks_beyond_the_decoder_is_refused(change, part):
    with pytest.raises(InputError) as caught:
        read_arch(GEMMA | change)
    assert part in str(caught.value) and "\n" not in str(caught.value)
