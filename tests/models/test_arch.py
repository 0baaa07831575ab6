"""Configs: both spellings read the same, and nothing unknown passes in silence."""

import json

import pytest
from transformers import Gemma3TextConfig, LlamaConfig

from atlas_jax.errors import InputError
from atlas_jax.models import read_arch
from atlas_jax.models.arch import Rope
from atlas_jax.models.rope import rope_frequencies

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
        ({"hidden_act": "gelu_10"}, "hidden_act='gelu_10'"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
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
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "linear_att"),
        ({"layer_types": ["full_attention"]}, "3 layers"),
        ({"head_dim": None}, "'head_dim'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "sliding_attention"),
    ],
)
def test_what_gemma_3_asks_beyond_the_decoder_is_refused(change, part):
    with pytest.raises(InputError) as caught:
        read_arch(GEMMA | change)
    assert part in str(caught.value) and "\n" not in str(caught.value)


OTHERS = {
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "olmo2": LLAMA,
    "phi3": LLAMA,
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "gpt2": {"vocab_size": 100, "n_embd": 32, "n_head": 4, "n_layer": 3},
    "gemma3": {"text_config": {"num_hidden_layers": 3}, "vision_config": {"hidden_size": 8}},
}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("family", "change", "part"),
    [
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "'sliding_window'"),
        ("qwen3", {"num_experts": 8}, "num_experts"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act='silu'"),
        ("gemma2", {"layer_types": ["full_attention"]}, "3 layers"),
        ("gemma2", {"sliding_window": None}, "'sliding_window'"),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv"),
        ("phi3", {"rope_scaling": LONGROPE}, "'longrope'"),
        ("phi3", {"rope_scaling": LONGROPE | {"type": "su"}}, "'su'"),
        ("gpt_neox", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("gpt_neox", {"hidden_act": "swiglu"}, "hidden_act='swiglu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_head": 5}, "multiple of n_head"),
        ("gemma3", {"text_config": {"model_type": "llama"}}, "gemma3_text, got 'llama'"),
        ("gemma3", {"text_config": {"mystery": 1}}, "mystery"),
        ("gemma3", {"audio_config": {}}, "audio_config"),
        ("gemma3", {"text_config": None}, "'text_config'"),
    ],
)
def test_what_a_family_asks_beyond_the_decoder_is_refused(family, change, part):
    config = OTHERS[family] | {"model_type": family}
    read_arch(config)
    with pytest.raises(InputError) as caught:
        read_arch(config | change)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def windows(config):
    arch = read_arch(config)
    return [arch.kinds[kind].window for kind in arch.layer_kinds]


def test_which_layers_have_a_window():
    qwen = OTHERS["qwen2"] | {"model_type": "qwen2", "sliding_window": 9, "max_window_layers": 2}
    assert windows(qwen) == [None] * 3 == windows(qwen | {"use_sliding_window": False})
    assert windows(qwen | {"use_sliding_window": True}) == [None, None, 9]
    mistral = OTHERS["mistral"] | {"model_type": "mistral"}
    # Absent means the default of transformers, null means none.
    assert windows(mistral) == [4096] * 3
    assert windows(mistral | {"sliding_window": None}) == [None] * 3
    assert windows(OTHERS["gemma2"] | {"model_type": "gemma2"}) == [4096, None, 4096]
    assert windows(OTHERS["phi3"] | {"model_type": "phi3", "sliding_window": 7}) == [7] * 3


def test_soft_caps_are_the_config_s():
    config = OTHERS["gemma2"] | {"model_type": "gemma2"}
    assert (read_arch(config).attn_softcap, read_arch(config).logit_softcap) == (50.0, 30.0)
    none = config | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    assert (read_arch(none).attn_softcap, read_arch(none).logit_softcap) == (None, None)


def test_old_and_new_spellings_of_gpt_neox_agree():
    config = OTHERS["gpt_neox"] | {"model_type": "gpt_neox"}
    old = config | {"rotary_pct": 0.5, "rotary_emb_base": 5000}
    new = config | {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 5000.0}}
    assert read_arch(old) == read_arch(new)
    assert read_arch(old).d_rotary == 4 and read_arch(config).d_rotary == 2


def test_a_multimodal_config_takes_the_defaults_of_its_text_part():
    from transformers import Gemma3Config

    values = {"num_hidden_layers": 7, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    arch = read_arch({"model_type": "gemma3", "text_config": values, "boi_token_index": 5})
    theirs = Gemma3Config(text_config=values).text_config
    assert (arch.vocab_size, arch.d_model, arch.d_mlp) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.intermediate_size,
    )
    assert (arch.n_heads, arch.n_kv_heads, arch.d_head) == (
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
        theirs.head_dim,
    )
    assert [arch.kinds[k].window for k in arch.layer_kinds] == [4096] * 5 + [None, 4096]
    assert {kind.rope for kind in arch.kinds} == {Rope(1e4), Rope(1e6, "linear", 8.0)}


def test_the_default_config_of_every_family_is_read(tmp_path):
    from transformers import AutoConfig

    from atlas_jax.models import FAMILIES

    for family in FAMILIES:
        config = AutoConfig.for_model(family)
        config.save_pretrained(tmp_path)
        arch = read_arch(json.loads((tmp_path / "config.json").read_text()))
        text = config.get_text_config()
        assert (arch.d_model, arch.n_layers) == (text.hidden_size, text.num_hidden_layers)
        assert arch.n_heads == text.num_attention_heads and arch.vocab_size == text.vocab_size
        assert arch.context_length == text.max_position_embeddings
        assert arch.tied == config.tie_word_embeddings
