"""What each architecture of llama.cpp is: its header as a config, its tensors as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.models.arch import Arch
from atlas_jax.models.gguf.header import Header
from atlas_jax.models.gguf.rope import rope_parameters

Config = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How to read the files of one architecture.

    Attributes:
        config: makes the config of a `config.json` from a header.
        undo: for a tensor's name in the checkpoint, its values and the shape of the model: the
            values before llama.cpp's converter changed them. None: it changes none.
        computes: `undo` computes new values rather than moving them.
    """

    config: Callable[[Header], Config]
    undo: Callable[[str, np.ndarray, Arch], np.ndarray] | None = None
    computes: bool = False


def _vocabulary(get: Header) -> Config:
    """What a config says of the tokens; several may end a text."""
    ids = [get.tokenizer(f"{role}_token_id") for role in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(i for i in ids if i is not None))
    return {
        "bos_token_id": get.tokenizer("bos_token_id"),
        "eos_token_id": ends if len(ends) > 1 else (ends[0] if ends else None),
        "pad_token_id": get.tokenizer("padding_token_id"),
        "tie_word_embeddings": "output.weight" not in get.tensors,
        "vocab_size": get.shape("token_embd.weight")[0],
    }


def _sizes(get: Header) -> Config:
    """What all configs but GPT-2's call alike."""
    layers = get("block_count")
    if type(layers) is not int or not 0 < layers <= len(get.tensors):
        raise InputError(
            f"Expected block_count of {get.path} from 1 to its {len(get.tensors)} tensors, got "
            f"{layers!r}."
        )
    return {
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": get("attention.head_count"),
        "max_position_embeddings": get("context_length"),
        **_vocabulary(get),
    }


def _rms(get: Header) -> Config:
    """What the families with RMSNorm and grouped queries have in common, RoPE left out."""
    sizes = _sizes(get)
    heads = sizes["num_attention_heads"]
    d_head = get("attention.key_length", sizes["hidden_size"] // heads)
    get.must_be("attention.value_length", d_head)
    return sizes | {
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": d_head,
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
    }


def _plain(get: Header, family: str, theta: float = 10000.0) -> Config:
    """Whole heads rotated, in all layers alike."""
    config = _rms(get)
    get.must_be("rope.dimension_count", config["head_dim"])
    rope = rope_parameters(get, config["head_dim"], theta)
    return config | {"model_type": family, "rope_parameters": rope}


def _llama(get: Header) -> Config:
    return _plain(get, "llama") | {
        "attention_bias": "blk.0.attn_q.bias" in get.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in get.tensors,
    }


def _qwen3(get: Header) -> Config:
    return _plain(get, "qwen3") | {"attention_bias": "blk.0.attn_q.bias" in get.tensors}


def _phi3(get: Header) -> Config:
    config = _rms(get)
    d_head = config["head_dim"]
    width = get("rope.dimension_count", d_head)
    original = get("rope.scaling.original_context_length", config["max_position_embeddings"])
    return config | {
        "model_type": "phi3",
        "original_max_position_embeddings": original,
        "sliding_window": get("attention.sliding_window", 0) or None,
        "rope_parameters": rope_parameters(get, width) | {"partial_rotary_factor": width / d_head},
    }


def _windows(get: Header, config: Config, every: int, window: int | None) -> Config:
    """Windows in all but every n-th layer, or as the header says layer by layer."""
    window, key = get("attention.sliding_window", window), "attention.sliding_window_pattern"
    slides = get.layers(key)
    if slides is None:
        every = get(key, every)
        slides = [(i + 1) % every != 0 for i in range(config["num_hidden_layers"])]
    names = [
        "sliding_attention" if slide and window else "full_attention" for slide in map(bool, slides)
    ]
    return {"sliding_window": window, "layer_types": names}


def _query_scale(config: Config, layers_of_27b: int) -> Config:
    """Gemma 27B divides scores by the root of hidden_size / heads; the header does not say so."""
    wide = config["hidden_size"] // config["num_attention_heads"]
    large = config["num_hidden_layers"] == layers_of_27b
    return {"query_pre_attn_scalar": wide if large else config["head_dim"]}


def _gemma2(get: Header) -> Config:
    config = _plain(get, "gemma2")
    get.must_be("rope.freq_base_swa", config["rope_parameters"]["rope_theta"])
    return {
        **config,
        **_windows(get, config, 2, 4096),
        **_query_scale(config, 46),
        "attn_logit_softcapping": get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": get("final_logit_softcapping", 30.0),
    }


def _gemma3(get: Header) -> Config:
    config = _plain(get, "gemma3_text", 1_000_000.0)
    local = {"rope_type": "default", "rope_theta": get("rope.freq_base_swa", 10000.0)}
    ropes = {"sliding_attention": local, "full_attention": config["rope_parameters"]}
    return {
        **config,
        **_windows(get, config, 6, None),
        **_query_scale(config, 62),
        "rope_parameters": ropes,
        "final_logit_softcapping": get("final_logit_softcapping", 0.0) or None,
    }


def _gpt2(get: Header) -> Config:
    heads = get("attention.head_count")
    get.must_be("attention.head_count_kv", heads)
    return {
        "model_type": "gpt2",
        "n_embd": get("embedding_length"),
        "n_inner": get("feed_forward_length"),
        "n_layer": get("block_count"),
        "n_head": heads,
        "n_positions": get("context_length"),
        "layer_norm_epsilon": get("attention.layer_norm_epsilon"),
        **_vocabulary(get),
    }


def _gpt_neox(get: Header) -> Config:
    config = _sizes(get)
    get.must_be("attention.head_count_kv", config["num_attention_heads"])
    d_head = config["hidden_size"] // config["num_attention_heads"]
    width = get("rope.dimension_count", d_head)
    return config | {
        "model_type": "gpt_neox",
        "layer_norm_eps": get("attention.layer_norm_epsilon"),
        "use_parallel_residual": get("use_parallel_residual", True),
        "attention_bias": "blk.0.attn_qkv.bias" in get.tensors,
        # The header does not say: GPT-NeoX-20B approximates GELU by tanh, Pythia does not.
        "hidden_act": "gelu_fast" if config["num_hidden_layers"] == 44 else "gelu",
        "rope_parameters": rope_parameters(get, width) | {"partial_rotary_factor": width / d_head},
    }


def _uninterleave(name: str, values: np.ndarray, arch: Arch) -> np.ndarray:
    """Rows (2i, 2i + 1) of each head of q and k back to (i, i + d/2)."""
    heads = {"q_proj": arch.n_heads, "k_proj": arch.n_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    rows, *columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, *columns)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _centred(name: str, values: np.ndarray, arch: Arch) -> np.ndarray:
    """Norm weights, stored plus one."""
    return values - np.float32(1) if name.endswith("norm.weight") else values


def _transposed(name: str, values: np.ndarray, arch: Arch) -> np.ndarray:
    """GPT-2's kernels, which lie (in, out) in its checkpoints."""
    return values.T if ".c_" in name and values.ndim == 2 else values


def _by_head(name: str, values: np.ndarray, arch: Arch) -> np.ndarray:
    """All q, all k, all v, back to each head's q, k and v beside each other."""
    if ".query_key_value." not in name:
        return values
    parts = values.reshape(3, arch.n_heads, arch.d_head, *values.shape[1:])
    return parts.swapaxes(0, 1).reshape(values.shape)


LAYOUTS: dict[str, Layout] = {
    "gemma": Layout(lambda get: _plain(get, "gemma"), _centred, computes=True),
    "gemma2": Layout(_gemma2, _centred, computes=True),
    "gemma3": Layout(_gemma3, _centred, computes=True),
    "gpt2": Layout(_gpt2, _transposed),
    "gptneox": Layout(_gpt_neox, _by_head),
    "llama": Layout(_llama, _uninterleave),
    "olmo2": Layout(lambda get: _plain(get, "olmo2")),
    "phi3": Layout(_phi3),
    "qwen2": Layout(lambda get: _plain(get, "qwen2")),
    "qwen3": Layout(_qwen3),
}
"""By the `general.architecture` of the header; Mistral's files say `llama`."""
