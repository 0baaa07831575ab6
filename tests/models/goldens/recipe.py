"""Tiny random models of every family: weights from a seed, logits as transformers gave them.

A golden is a JSON file: a `config.json`, the checkpoint's tensor names and shapes, some token ids
and some of the logits. The weights are drawn from PCG64's raw stream, which NumPy promises to
keep, so that parity can be checked where there is no torch.
`python tests/models/goldens/recipe.py` writes the files anew with the transformers that is there.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent
POSITIONS = (4, 21, 39)
EVERY = 8  # vocabulary entries that are kept


def names():
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def draw(name, shape, norm):
    """Values uniform in +-sqrt(3): kernels scaled to keep variance, norms near `norm`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape))).reshape(shape)
    values = ((raw >> 11) / 2**53 * 2 - 1) * 3**0.5
    if len(shape) == 1:
        return (0.2 * values + norm * name.endswith("weight")).astype(np.float32)
    fan_in = shape[0] if ".c_" in name else shape[1]  # GPT-2's kernels lie the other way round
    return (values / fan_in**0.5).astype(np.float32)


def tensors(golden):
    """Every tensor of the checkpoint; `{}` in a name stands for each layer in turn."""
    found = {}
    for name, shape in golden["tensors"].items():
        for layer in range(golden["layers"]) if "{}" in name else [0]:
            full = name.format(layer)
            found[full] = draw(full, shape, golden["norm"])
    return found


def write_checkpoint(golden, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(golden["config"]))
    save_file(tensors(golden), folder / "model.safetensors", {"format": "pt"})
    return folder


SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_GQA = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA3 = SIZES | {
    "model_type": "gemma3_text",
    "head_dim": 16,
    "sliding_window": 6,
    "query_pre_attn_scalar": 20,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
    },
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
CONFIGS = {
    "llama": SIZES | {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama_biased": SIZES
    | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    "mistral": SIZES | {"model_type": "mistral", "sliding_window": 6, "head_dim": 12},
    "qwen2": SIZES
    | {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": SIZES | {"model_type": "qwen3", "head_dim": 12},
    "gemma": SIZES | {"model_type": "gemma", "head_dim": 16},
    "gemma2": SIZES
    | {
        "model_type": "gemma2",
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": GEMMA3,
    "gemma3": {
        "model_type": "gemma3",
        "text_config": GEMMA3,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 319,
        "boi_token_index": 318,
        "eoi_token_index": 317,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 320,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "n_inner": 56,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": NO_GQA
    | {
        "model_type": "gpt_neox",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
    },
    "gpt_neox_serial": NO_GQA
    | {"model_type": "gpt_neox", "use_parallel_residual": False, "attention_bias": False},
    "olmo2": SIZES | {"model_type": "olmo2"},
    "phi3": SIZES
    | {
        "model_type": "phi3",
        "sliding_window": 9,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
    },
}


def make(name, values):
    """The golden of a config, from transformers."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    text = config.get_text_config()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.save_pretrained(folder)
        saved = json.loads((folder / "config.json").read_text())
        saved.pop("transformers_version")
        with safe_open(folder / "model.safetensors", framework="np") as file:
            shapes = {n: list(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        stacks = {}
        for n, shape in sorted(shapes.items()):
            part = n.split(".")
            layered = "vision" not in n and any(p.isdigit() for p in part)
            stacks[".".join("{}" if layered and p.isdigit() else p for p in part)] = shape
        golden = {
            "config": saved,
            "layers": text.num_hidden_layers,
            "norm": 0.0 if name.startswith("gemma") else 1.0,
            "tensors": stacks,
            "tokens": np.random.default_rng(0).integers(3, 300, POSITIONS[-1] + 1).tolist(),
        }
        write_checkpoint(golden, folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        )
        with torch.no_grad():
            logits = model.eval()(torch.tensor([golden["tokens"]])).logits[0].numpy()
    golden["logits"] = [[float(f"{x:.7g}") for x in logits[p, ::EVERY]] for p in POSITIONS]
    return golden


def text_of(golden):
    """One line for each entry, so that a change is readable."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CONFIGS:
        (FOLDER / f"{wanted}.json").write_text(text_of(make(wanted, CONFIGS[wanted])))
        print(wanted, (FOLDER / f"{wanted}.json").stat().st_size)
