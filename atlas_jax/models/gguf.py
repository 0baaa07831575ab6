"""GGUF files, read once into an ordinary checkpoint folder (config, safetensors, tokenizer)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from atlas_jax.errors import InputError
from atlas_jax.progress import track

_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_NAMES = {
    "llama": _BLOCK | {"ffn_norm": "post_attention_layernorm"},
    "gemma3": _BLOCK
    | {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SHARD_BYTES = 1 << 30


def convert_gguf(path: Path, folder: Path) -> Path:
    """Dequantises a GGUF file to float32 and writes a checkpoint folder, once.

    The folder appears under its name only when it is whole. Undoes what llama.cpp did to the
    tensors: q and k rows of `llama` files are interleaved for its rotary kernel, and Gemma's norm
    weights are stored plus one.

    Args:
        path: the file.
        folder: where the result goes; returned at once if it is there already.

    Raises:
        InputError: not a GGUF file, a damaged one, an architecture or a tensor this does not
            know, or no room on the disk.
    """
    if (folder / "config.json").exists():
        return folder
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields, {tensor.name for tensor in reader.tensors}, path)
    draft = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write_tensors(reader, config, draft)
        _write_tokenizer(fields, config, draft)
        (draft / "config.json").write_text(json.dumps(config, indent=1))
        draft.rename(folder)
    except OSError as error:
        raise InputError(f"Could not write {folder}: {error.strerror}. Make room there.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _open(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(str(path))
    except Exception as error:
        raise InputError(
            f"Expected a GGUF file, could not read {path} ({error}). Download it again."
        ) from None


def _config(fields: dict[str, Any], tensors: set[str], path: Path) -> dict[str, Any]:
    """The `config.json` that a GGUF header amounts to."""
    name = fields["general.architecture"]
    if name not in _NAMES:
        raise InputError(
            f"Expected a GGUF file of architecture {' or '.join(_NAMES)}, {path} has '{name}'."
        )

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"{name}.{key}", default)

    heads = get("attention.head_count")
    d_head = get("attention.key_length", get("embedding_length") // heads)
    theta = get("rope.freq_base", 10000.0)
    if get("rope.scaling.type", "none") != "none":
        raise InputError(f"{path} asks for RoPE scaling '{get('rope.scaling.type')}': not known.")
    config = {
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": d_head,
        # The header holds float32; the config it was made from, a short decimal.
        "rms_norm_eps": float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
    }
    if name == "llama":
        return config | {"model_type": "llama", "rope_theta": theta}
    return config | {
        "model_type": "gemma3_text",
        "rope_theta": theta,
        "rope_local_base_freq": 10000.0,
        "sliding_window": get("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": d_head,
    }


def _write_tensors(reader: Any, config: dict[str, Any], folder: Path) -> None:
    import gguf

    family = "llama" if config["model_type"] == "llama" else "gemma3"
    shard: dict[str, np.ndarray] = {}
    weight_map: dict[str, str] = {}

    def flush() -> None:
        file = f"model-{len(set(weight_map.values())):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})  # transformers asks for it
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for tensor in track(list(reader.tensors), "dequantising"):
        name = _hf_name(tensor.name, _NAMES[family])
        values = np.ascontiguousarray(
            gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        )
        if family == "llama" and ".q_proj" in name:
            values = _uninterleave(values, config["num_attention_heads"])
        elif family == "llama" and ".k_proj" in name:
            values = _uninterleave(values, config["num_key_value_heads"])
        elif family == "gemma3" and name.endswith("norm.weight"):
            values = values - np.float32(1)
        shard[name] = values
        if sum(array.nbytes for array in shard.values()) >= _SHARD_BYTES:
            flush()
    if shard:
        flush()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _hf_name(name: str, table: dict[str, str]) -> str:
    stem, _, suffix = name.rpartition(".")
    if suffix == "weight" and stem in _TOP:
        return f"{_TOP[stem]}.weight"
    prefix, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if suffix == "weight" and prefix == "blk" and layer.isdigit() and part in table:
        return f"model.layers.{layer}.{table[part]}.weight"
    raise InputError(f"The GGUF file has a tensor '{name}' that this reader does not know.")


def _uninterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows (2i, 2i + 1) of each head back to (i, i + d/2)."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _write_tokenizer(fields: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Builds the tokenizer that the GGUF vocabulary describes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from tokenizers import pre_tokenizers as pre

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{key}", default)

    tokens: list[str] = get("tokens")
    vocab = {token: i for i, token in enumerate(tokens)}
    kinds = get("token_type")
    if get("model") == "gpt2":
        if get("pre") not in ("smollm", "gpt-2", "default", None):
            raise InputError(f"The GGUF file's pre-tokenizer '{get('pre')}' is not known here.")
        merges = [tuple(line.split(" ", 1)) for line in get("merges")]
        tokenizer = Tokenizer(models.BPE(vocab, merges))
        level = pre.ByteLevel(add_prefix_space=False)
        digits = pre.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre.Sequence([digits, level]) if get("pre") == "smollm" else level
        tokenizer.decoder = decoders.ByteLevel()
    elif get("model") == "llama":
        merges = _merges(tokens, get("scores"))
        unknown = tokens[get("unknown_token_id", 0)]
        tokenizer = Tokenizer(
            models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        )
        steps: list[Any] = [normalizers.Replace(" ", "▁")]
        if get("add_space_prefix", True):
            steps.insert(0, normalizers.Prepend("▁"))
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        raise InputError(f"The GGUF file's tokenizer model '{get('model')}' is not known here.")
    control, user_defined = 3, 4
    tokenizer.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t, k in zip(tokens, kinds, strict=True)
            if k == control
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(t, normalized=False)
            for t, k in zip(tokens, kinds, strict=True)
            if k == user_defined
        ]
    )
    named = {
        "bos_token": get("bos_token_id"),
        "eos_token": get("eos_token_id"),
        "unk_token": get("unknown_token_id"),
        "pad_token": get("padding_token_id"),
    }
    if get("add_bos_token", get("model") == "llama"):
        bos = tokens[named["bos_token"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, named["bos_token"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        **{role: tokens[i] for role, i in named.items() if i is not None},
    }
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merge list a SentencePiece BPE vocabulary implies: best piece first, then best halves."""
    rank = {token: i for i, token in enumerate(tokens)}
    found = []
    for token, score in track(zip(tokens, scores, strict=True), "reading merges", len(tokens)):
        halves = [
            (rank[token[:cut]], rank[token[cut:]], token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in rank and token[cut:] in rank
        ]
        found.extend((-score, *half) for half in sorted(halves))
    found.sort(key=lambda merge: merge[0])
    return [(left, right) for *_, left, right in found]
