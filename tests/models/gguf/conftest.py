"""Tiny checkpoints and, written from them as llama.cpp's converter writes them, GGUF files."""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# What a header cannot say is left out, or set to what llama.cpp takes for granted.
EXPRESSIBLE = {
    "llama": {"rope_parameters": LLAMA3},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "layer_types": ["full_attention"] * 3},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 7,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    },
}


@dataclass
class File:
    """What goes into a GGUF file beside what its checkpoint says.

    `fields` are written over those of the header (None: left out), `raw` over tensors, by their
    GGUF names, as (bytes, type); `kind` is the type of the others that have two axes; `split`
    the number of tensors in each part, 0: one file.
    """

    fields: dict = field(default_factory=dict)
    raw: dict = field(default_factory=dict)
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
    architecture: str | None = None
    split: int = 0


def rope_factors(rope, width):
    """`rope_freqs.weight` of a Llama 3.1 model, in float32 as the converter computes it."""
    inverse = np.float32(1) / np.float32(rope["rope_theta"]) ** (
        np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    )
    low, high = (rope[f"{end}_freq_factor"] for end in ("low", "high"))
    length = rope["original_max_position_embeddings"]
    factors = []
    for wavelength in 2 * np.pi / inverse:
        smooth = (length / wavelength - low) / (high - low)
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(rope["factor"])
        else:
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def header_of(config):
    """The keys that the converter writes for a config, without the architecture before them."""

    def first(*names):
        return next((config[name] for name in names if config.get(name) is not None), None)

    ropes = config.get("rope_parameters", {})
    rope = ropes.get("full_attention", ropes)
    width, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    d_head = config.get("head_dim") or width // heads
    keys = {
        "context_length": first("max_position_embeddings", "n_positions"),
        "embedding_length": width,
        "block_count": first("num_hidden_layers", "n_layer"),
        "feed_forward_length": first("intermediate_size", "n_inner"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads"),
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        "attention.layer_norm_epsilon": first("layer_norm_eps", "layer_norm_epsilon"),
        "attention.sliding_window": config.get("sliding_window"),
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "rope.freq_base": rope.get("rope_theta"),
        "rope.freq_base_swa": ropes.get("sliding_attention", {}).get("rope_theta"),
        "use_parallel_residual": config.get("use_parallel_residual"),
        "vocab_size": config["vocab_size"],
    }
    if rope.get("rope_type") == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    if config["model_type"] in ("llama", "mistral", "phi3", "gpt_neox"):
        share = rope.get("partial_rotary_factor", 1.0)
        keys["rope.dimension_count"] = int(share * d_head)
    if config["model_type"] == "phi3":
        keys["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    if config["model_type"] in ("qwen2", "gemma"):
        keys["attention.sliding_window"] = None
    return {key: value for key, value in keys.items() if value is not None}


def changed(name, values, config):
    """A tensor as the converter changes it."""
    family = config["model_type"]
    heads = config.get("num_attention_heads")
    if family in ("llama", "mistral") and re.search(r"\.[qk]_proj\.", name):
        heads = heads if "q_proj" in name else config["num_key_value_heads"]
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    if family == "gpt2" and re.search(r"\.c_\w+\.weight$", name):
        return values.T
    if family == "gpt_neox" and "query_key_value" in name:
        parts = values.reshape(heads, 3, -1, *values.shape[1:])
        return np.concatenate([parts[:, i].reshape(-1, *values.shape[1:]) for i in range(3)])
    return values


def byte_vocabulary(folder, size, pre):
    """Header keys of the tiny tokenizer, its vocabulary filled up to that of the model."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    special = {"<pad>": 3, "<bos>": 3, "<eos>": 3}
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [5 if t.startswith("[PAD") else special.get(t, 1) for t in tokens],
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "padding_token_id": 0,
        "add_bos_token": True,
    }


def add(writer, key, value):
    """Writes a key with the type that llama.cpp's converter gives it."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def write_gguf(folder, path, **options):
    """Converts a checkpoint folder as llama.cpp's converter does; `options` are those of `File`."""
    file = File(**options)
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    own = ARCHITECTURES.get(family, family)
    arch = file.architecture or own
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=file.split)
    keys = {f"{arch}.{key}": value for key, value in header_of(config).items()}
    pre = "qwen2" if family == "qwen2" else "gpt-2"
    vocabulary = byte_vocabulary(folder, config["vocab_size"], pre)
    keys |= {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    for key, value in (keys | file.fields).items():
        if value is not None:
            add(writer, key, value)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(kinds[own], layers)
    tensors = {}
    for name, values in load_file(folder / "model.safetensors").items():
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tensors[key] = np.ascontiguousarray(changed(name, values, config))
    rope = config.get("rope_parameters", {})
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = rope_factors(rope, config["head_dim"])
    raw = {key: (values, gguf.GGMLQuantizationType.F32) for key, values in tensors.items()}
    for key, values in tensors.items():
        if values.ndim == 2:
            raw[key] = (gguf.quantize(values, file.kind), file.kind)
    for key, (values, kind) in (raw | file.raw).items():
        if values is not None:
            writer.add_tensor(key, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_back(folder):
    """All tensors of a checkpoint folder."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


@pytest.fixture(scope="session")
def source(recipe, tiny_tokenizer, tmp_path_factory):
    """The checkpoint of a family, as far as a GGUF file can hold it; `patch` varies its golden."""
    made: dict[str, Path] = {}

    def get(name, patch=None):
        if name in made and patch is None:
            return made[name]
        golden = recipe.read(name)
        golden["config"] |= EXPRESSIBLE.get(name, {})
        for key, value in (patch or {}).items():
            golden[key] = golden[key] | value if isinstance(value, dict) else value
        golden["layers"] = golden["config"].get("num_hidden_layers", golden["layers"])
        folder = recipe.write_checkpoint(golden, tmp_path_factory.mktemp(name))
        shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
        if patch is None:
            made[name] = folder
        return folder

    return get


@pytest.fixture
def tools():
    """What writes GGUF files and reads folders; test modules cannot import each other."""
    return Tools


class Tools:
    """The functions of this file."""

    write = staticmethod(write_gguf)
    read_back = staticmethod(read_back)
    rope_factors = staticmethod(rope_factors)
