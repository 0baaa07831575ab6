"""Two tiny random models, an atlas of one of them, and a recipe over them: nothing is downloaded.

What the whole pipeline finds in random weights means nothing; that it runs from end to end does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from atlas_jax.atlas import SAE, Labels, save_saelens
from atlas_jax.models import read_arch
from atlas_jax.models.weights import tensor_shapes
from atlas_jax.pipeline.recipe import Recipe

_SHARED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA = _SHARED | {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
_GEMMA = _SHARED | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 6,
    "head_dim": 16,
    "sliding_window": 16,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 16,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
}
_SITE = "blocks.1.hook_resid_post"
_FEATURES = 96
_NOUNS = ("rivers", "numbers", "streets", "animals", "music", "letters", "weather", "kitchens")


def smoke_recipe(folder: Path) -> Recipe:
    """Writes the models and the atlas into a folder and gives the recipe that uses them."""
    from atlas_jax.corpus import documents

    texts = [document.text for document in documents("packages:python-docs")][:400]
    _model(folder / "subject", _GEMMA, texts, seed=1)
    _model(folder / "atlas-model", _LLAMA, texts, seed=2)
    _atlas(folder / "atlas", folder / "atlas-model")
    return Recipe(name="smoke").with_values(
        {
            "subject.model": str(folder / "subject"),
            "atlas.reference": str(folder / "atlas"),
            "corpus.source": "packages:python-docs",
            "corpus.sequences": 240,
            "capture.max_tokens": 64,
            "fit.methods": [
                "covariance",
                "correlation",
                "linear_regression",
                "procrustes",
                "semantic_lens",
            ],
            "evaluate.features": 20,
            "evaluate.curve": True,
            "retrieval.features": 30,
            "retrieval.samples": 5,
            "identify.queries": [{"name": "rivers and streets", "features": [0, 2]}],
            "identify.samples": 3,
            "steer.prompt": "The function returns",
            "steer.strengths": [1.0, 4.0],
            "steer.max_new_tokens": 8,
        }
    )


def _model(folder: Path, config: Mapping[str, Any], texts: list[str], seed: int) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "vocab_size": _tokenizer(folder, texts)}
    (folder / "config.json").write_text(json.dumps(config))
    arch = read_arch(config)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(arch).items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            values = 1 - arch.norm_offset + 0.1 * values
        elif "embed" not in name:
            values = values / np.sqrt(shape[1])
        tensors[name] = np.ascontiguousarray(values, np.float32)
    save_file(tensors, folder / "model.safetensors")


def _tokenizer(folder: Path, texts: list[str]) -> int:
    """Trains a small byte-level BPE; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return inner.get_vocab_size()


def _atlas(folder: Path, model: Path) -> None:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((_FEATURES, 32)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sae = SAE(
        W_enc=jnp.asarray(directions.T),
        b_enc=jnp.zeros(_FEATURES, jnp.float32),
        W_dec=jnp.asarray(directions),
        b_dec=jnp.zeros(32, jnp.float32),
        threshold=jnp.full(_FEATURES, 2.5, jnp.float32),
        architecture="jumprelu",
        k=None,
        apply_b_dec_to_input=False,
    )
    save_saelens(sae, folder, site=_SITE, model_name=str(model))
    names = [(i, f"{_NOUNS[i % 8]}, kind {i // 8 + 1}") for i in range(_FEATURES)]
    Labels.of(names).save(folder / "labels.jsonl")
