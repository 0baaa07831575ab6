"""Header keys: what is read, what changes nothing, and what is refused by its name."""

import gguf
import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.models.arch import Rope
from atlas_jax.models.gguf import convert_gguf

F32 = gguf.GGMLQuantizationType.F32


def test_conversion_happens_once(source, tools, tmp_path):
    path, out = tools.write(source("llama"), tmp_path / "tiny.gguf"), tmp_path / "out"
    convert_gguf(path, out)
    before = (out / "config.json").stat().st_mtime_ns
    convert_gguf(path, out)
    assert (out / "config.json").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.parametrize(
    ("family", "options", "part"),
    [
        ("qwen3", {"architecture": "falcon"}, "'falcon'"),
        (
            "qwen3",
            {"raw": {"blk.0.attn_sinks.weight": (np.ones(4, np.float32), F32)}},
            "attn_sinks",
        ),
        ("qwen3", {"raw": {"blk.0.attn_k.weight": (None, F32)}}, "blk.0.attn_k.weight"),
        ("qwen3", {"raw": {"token_embd.weight": (None, F32)}}, "token_embd.weight"),
        ("qwen3", {"raw": {"output_norm.weight": (np.ones(8, np.float32), F32)}}, "(32,)"),
        ("qwen3", {"fields": {"qwen3.rope.scaling.type": "yarn"}}, "'yarn'"),
        ("qwen3", {"fields": {"qwen3.expert_count": 8}}, "expert_count=8"),
        ("qwen3", {"fields": {"qwen3.attention.causal": False}}, "causal=False"),
        ("qwen3", {"fields": {"qwen3.attention.sliding_window": 4}}, "sliding_window=4"),
        ("qwen3", {"fields": {"qwen3.attention.scale": 0.5}}, "attention.scale=0.5"),
        ("qwen3", {"fields": {"qwen3.attention.head_count_kv": [2, 1, 2]}}, "head_count_kv"),
        ("qwen3", {"fields": {"qwen3.attention.value_length": 8}}, "value_length=8"),
        ("qwen3", {"fields": {"qwen3.block_count": None}}, "qwen3.block_count"),
        ("qwen3", {"fields": {"qwen3.rope.dimension_count": 6}}, "dimension_count=6"),
        ("llama", {"fields": {"llama.attn_logit_softcapping": 30.0}}, "attn_logit_softcapping"),
        ("olmo2", {"fields": {"olmo2.attention.clamp_kqv": 8.0}}, "clamp_kqv=8.0"),
        ("gpt2", {"fields": {"gpt2.use_parallel_residual": True}}, "use_parallel_residual=True"),
        ("phi3", {"raw": {"rope_factors_long.weight": (np.ones(2, np.float32), F32)}}, "longrope"),
        ("phi3", {"fields": {"phi3.rope.scaling.attn_factor": 1.2}}, "attn_factor=1.2"),
    ],
)
def test_what_is_not_known_is_refused_and_leaves_nothing(
    family, options, part, source, tools, tmp_path
):
    path = tools.write(source(family), tmp_path / "tiny.gguf", **options)
    with pytest.raises(InputError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf"]


def test_keys_that_change_nothing_are_accepted(source, tools, tmp_path):
    fields = {
        "qwen3.expert_count": 0,
        "qwen3.attention.causal": True,
        "qwen3.rope.scaling.type": "none",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.attention.head_count_kv": [2, 2, 2],
        "general.name": "Tiny",
        "quantize.imatrix.file": "x",
    }
    path = tools.write(source("qwen3"), tmp_path / "tiny.gguf", fields=fields)
    arch = load_model(convert_gguf(path, tmp_path / "out")).arch
    assert arch == load_model(source("qwen3")).arch


@pytest.mark.parametrize(
    "fields",
    [
        {"olmo2.rope.scaling.type": "linear", "olmo2.rope.scaling.factor": 4.0},
        {"olmo2.rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_of_rope(fields, source, tools, tmp_path):
    path = tools.write(source("olmo2"), tmp_path / "tiny.gguf", fields=fields)
    arch = load_model(convert_gguf(path, tmp_path / "out")).arch
    assert arch.kinds[0].rope == Rope(10000.0, "linear", 4.0)


@pytest.mark.parametrize(("theta", "width", "factor"), [(5e5, 128, 8.0), (5e5, 64, 32.0)])
def test_llama3_frequencies_are_recognised_in_their_real_sizes(
    theta, width, factor, source, tools, tmp_path
):
    rope = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    rope |= {"rope_theta": theta, "factor": factor, "original_max_position_embeddings": 8192}
    patch = {
        "config": {"rope_parameters": rope, "head_dim": width, "num_hidden_layers": 1},
        "tensors": {
            f"model.layers.{{}}.self_attn.{p}_proj.weight": [heads * width, 32][
                :: 1 - 2 * (p == "o")
            ]
            for p, heads in {"q": 4, "k": 2, "v": 2, "o": 4}.items()
        },
    }
    path = tools.write(source("llama", patch), tmp_path / "tiny.gguf")
    arch = load_model(convert_gguf(path, tmp_path / "out")).arch
    assert arch.kinds[0].rope == Rope(theta, "llama3", factor, 1.0, 4.0, 8192)


def test_other_frequency_factors_are_refused(source, tools, tmp_path):
    other = {"rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    other |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8191}
    for factors in (tools.rope_factors(other, 8), np.arange(1, 5), np.full(3, 8.0)):
        raw = {"rope_freqs.weight": (np.float32(factors), F32)}
        path = tools.write(source("llama"), tmp_path / "tiny.gguf", raw=raw)
        with pytest.raises(InputError, match=r"rope_freqs\.weight"):
            convert_gguf(path, tmp_path / "out")


def test_frequency_factors_of_one_change_nothing(source, tools, tmp_path):
    raw = {"rope_freqs.weight": (np.ones(4, np.float32), F32)}
    path = tools.write(source("llama"), tmp_path / "tiny.gguf", raw=raw)
    arch = load_model(convert_gguf(path, tmp_path / "out")).arch
    assert arch.kinds[0].rope == Rope(500000.0)


def test_windows_layer_by_layer(source, tools, tmp_path):
    fields = {"gemma3.attention.sliding_window_pattern": [True, False, True, True, False] * 2}
    patch = {"config": {"num_hidden_layers": 10, "layer_types": ["full_attention"] * 10}}
    path = tools.write(source("gemma3_text", patch), tmp_path / "tiny.gguf", fields=fields)
    arch = load_model(convert_gguf(path, tmp_path / "out")).arch
    assert [arch.kinds[k].window for k in arch.layer_kinds] == [6, None, 6, 6, None] * 2


def test_several_tokens_may_end_a_text(source, tools, tmp_path):
    fields = {"tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 2}
    path = tools.write(source("qwen3"), tmp_path / "tiny.gguf", fields=fields)
    assert load_model(convert_gguf(path, tmp_path / "out")).stop_ids == (2, 9)


def test_a_file_that_is_no_gguf_is_refused(source, tools, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match=r"text\.gguf"):
        convert_gguf(tmp_path / "text.gguf", tmp_path / "out")
    path = tools.write(source("qwen3"), tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"tiny\.gguf"):
        convert_gguf(path, tmp_path / "out")


def test_too_small_a_disk_is_noticed_before_the_work(source, tools, tmp_path, monkeypatch):
    path = tools.write(source("qwen3"), tmp_path / "tiny.gguf")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"Make room"):
        convert_gguf(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf"]
