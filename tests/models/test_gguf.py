"""GGUF files written as llama.cpp writes them, and read back to the weights they came from."""

import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from atlas_jax.errors import InputError
from atlas_jax.models import load_model
from atlas_jax.models.gguf import _merges, convert_gguf

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def interleave(weight, heads):
    """What llama.cpp's converter does to q and k: row i + d/2 of a head goes beside row i."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


@pytest.fixture
def write(tiny_llama_tied, tmp_path):
    """Writes the tied checkpoint as a GGUF file; `architecture`, `fields` and `tensors` vary it."""

    def make(architecture="llama", kind=gguf.GGMLQuantizationType.F32, extra=None, pre="gpt-2"):
        config = json.loads((tiny_llama_tied / "config.json").read_text())
        vocabulary = json.loads((tiny_llama_tied / "tokenizer.json").read_text())["model"]
        tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if t in ("<pad>", "<bos>", "<eos>") else 1 for t in tokens])
        writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(True)
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        tensors = load_file(tiny_llama_tied / "model.safetensors")
        for name, values in tensors.items():
            part = name.split(".")[-2]
            if part in heads:
                values = interleave(values, heads[part])
            if values.ndim == 2 and values.shape[1] % 32 == 0:
                data = gguf.quantize(values, kind)
                writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(name), values)
        for name, values in (extra or {}).items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def read_back(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def test_transformers_reads_the_converted_folder(write, tiny_llama_tied, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = convert_gguf(write(), tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, values in AutoModelForCausalLM.from_pretrained(tiny_llama_tied).state_dict().items():
        np.testing.assert_array_equal(back[name].numpy(), values.numpy(), err_msg=name)


def test_a_float_file_gives_back_weights_config_and_tokenizer(write, tiny_llama_tied, tmp_path):
    folder = convert_gguf(write(), tmp_path / "out")
    source, back = load_file(tiny_llama_tied / "model.safetensors"), read_back(folder)
    assert source.keys() == back.keys()
    for name, values in source.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
    ours, original = load_model(folder), load_model(tiny_llama_tied)
    assert ours.arch == original.arch
    theirs = AutoTokenizer.from_pretrained(tiny_llama_tied)
    texts = ["The cat  sat.", "Ünïcode — “quotes” 🐶\n\n\tdef f(x): return 42", " lead", "<eos> x"]
    ids = ours.tokenizer.encode_batch(texts)
    assert ids == theirs(texts)["input_ids"]
    assert all(row[0] == 1 for row in ids)
    assert ours.tokenizer.decode(ids[1]) == texts[1]
    assert not list(tmp_path.glob("*.partial-*"))


def test_a_quantised_file_is_near_its_source(write, tiny_llama_tied, tmp_path):
    folder = convert_gguf(write(kind=gguf.GGMLQuantizationType.Q8_0), tmp_path / "out")
    source, back = load_file(tiny_llama_tied / "model.safetensors"), read_back(folder)
    for name, values in source.items():
        assert back[name].dtype == np.float32
        np.testing.assert_allclose(back[name], values, atol=np.abs(values).max() / 127)


def test_conversion_happens_once(write, tmp_path):
    path, out = write(), tmp_path / "out"
    convert_gguf(path, out)
    before = (out / "config.json").stat().st_mtime_ns
    convert_gguf(path, out)
    assert (out / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"architecture": "falcon"}, "'falcon'"),
        ({"extra": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "attn_sinks"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(4, np.float32)}}, "blk.0.attn_q.bias"),
        ({"pre": "qwen2"}, "'qwen2'"),
    ],
)
def test_what_is_not_known_is_refused_and_leaves_nothing(write, tmp_path, options, part):
    path = write(**options)
    with pytest.raises(InputError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf"]


def test_a_file_that_is_no_gguf_is_refused(write, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match=r"text\.gguf"):
        convert_gguf(tmp_path / "text.gguf", tmp_path / "out")
    path = write()
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"tiny\.gguf"):
        convert_gguf(path, tmp_path / "out")


def test_merges_of_a_sentencepiece_vocabulary():
    tokens = ["a", "b", "c", "ab", "bc", "abc"]
    scores = [0.0, 0.0, 0.0, -1.0, -2.0, -3.0]
    assert _merges(tokens, scores) == [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]
