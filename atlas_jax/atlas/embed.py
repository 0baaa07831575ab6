"""Sentence embeddings: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), a BERT.

    h_0 = LN(word + position + type),  h = LN(h + attention(h)),  h = LN(h + gelu(h W_1) W_2)
    e = mean of h over the text's tokens, divided by its length

Layers are stacked and scanned, so the whole model compiles as one block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from safetensors import safe_open

from atlas_jax.atlas.sae import matmul
from atlas_jax.errors import InputError
from atlas_jax.models.tokenizer import check_utf8
from atlas_jax.outside import read_json, refusing
from atlas_jax.progress import Bar

MAX_TOKENS = 256
_BUCKETS = (16, 32, 64, 128, MAX_TOKENS)
_BATCH_TOKENS = 4096
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "norm_attn": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_mlp": "output.LayerNorm",
}
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def _norm(x: Array, scale: tuple[Array, Array], eps: float) -> Array:
    weight, bias = scale
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    unit = centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps)
    return unit * weight[None, None] + bias[None, None]


@partial(jax.jit, static_argnames=("heads", "eps"))
def bert(
    weights: dict[str, Any],
    tokens: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    heads: int,
    eps: float,
) -> Float[Array, "b t d"]:
    """Hidden states of the last layer; padding is on the right."""
    x = weights["word_embeddings"][tokens] + weights["token_type_embeddings"][:1][None]
    x = x + weights["position_embeddings"][: tokens.shape[1]][None]
    x = _norm(x, weights["norm"], eps)
    split = (*tokens.shape, heads, x.shape[-1] // heads)
    hidden = ~mask[:, None, None, :]

    def dense(x: Array, name: str, layer: dict[str, Any]) -> Array:
        weight, bias = layer[name]
        return matmul(x, weight.T) + bias[None, None]

    def block(x: Array, layer: dict[str, Any]) -> tuple[Array, None]:
        q, k, v = (dense(x, name, layer).reshape(split) for name in "qkv")
        scores = jnp.einsum("bthe,bshe->bhts", q, k, precision=lax.Precision.HIGHEST)
        scores = scores / jnp.sqrt(jnp.float32(split[-1]))
        scores = jax.nn.softmax(jnp.where(hidden, -1e30, scores), axis=-1)
        mixed = jnp.einsum("bhts,bshe->bthe", scores, v, precision=lax.Precision.HIGHEST)
        x = _norm(x + dense(mixed.reshape(x.shape), "o", layer), layer["norm_attn"], eps)
        inner = jax.nn.gelu(dense(x, "up", layer), approximate=False)
        return _norm(x + dense(inner, "down", layer), layer["norm_mlp"], eps), None

    return lax.scan(block, x, weights["layers"])[0]


def mean_pool(h: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean over real tokens, divided by its length."""
    weight = mask.astype(h.dtype)[:, :, None]
    mean = jnp.sum(h * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


@runtime_checkable
class Embedder(Protocol):
    """What turns texts into unit vectors; `fingerprint` names the exact weights."""

    width: int
    fingerprint: str

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]: ...


class SentenceEmbedder:
    """Text to unit vectors.

    Args:
        folder: a BERT in Hugging Face layout; default: the asset `all-minilm-l6-v2`.

    Raises:
        InputError: another kind of model, or a damaged folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        from atlas_jax.models.tokenizer import read_tokenizer

        if folder is None:
            from atlas_jax import assets

            folder = assets.fetch("all-minilm-l6-v2")
        folder = Path(folder)
        with refusing(f"a BERT in {folder}"):
            config = read_json(folder / "config.json", "the config of a BERT")
            self.weights = _load(folder / "model.safetensors", config)
            self.fingerprint = _fingerprint(folder)
            self.heads = int(config["num_attention_heads"])
            self.eps = float(config["layer_norm_eps"])
            self.width = int(config["hidden_size"])
            positions = len(self.weights["position_embeddings"])
            self.max_tokens = min(MAX_TOKENS, int(config["max_position_embeddings"]), positions)
            if self.weights["word_embeddings"].shape[1:] != (self.width,) or self.heads < 1:
                raise ValueError(f"its weights are not {self.width} wide")
        self.tokenizer: Any = read_tokenizer(folder)

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Unit vectors of texts, (n, d) float32; texts beyond 256 tokens are cut."""
        out = np.zeros((len(texts), self.width), np.float32)
        if not len(texts):
            return out
        encoded = self.tokenizer(check_utf8(texts), truncation=True, max_length=self.max_tokens)
        rows = encoded["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        with Bar("embedding texts", len(rows)) as bar:
            while order:
                length = next(b for b in _BUCKETS if b >= len(rows[order[0]]))
                length = min(length, self.max_tokens)
                most = max(1, _BATCH_TOKENS // length)
                batch = [i for i in order[:most] if len(rows[i]) <= length]
                # One text must not wait for a batch of padding; few sizes, each compiled once.
                size = min(size for size in (1, 8, most) if size >= len(batch))
                order = order[len(batch) :]
                tokens = np.zeros((size, length), np.int32)
                mask = np.zeros((size, length), bool)
                for row, i in enumerate(batch):
                    tokens[row, : len(rows[i])], mask[row, : len(rows[i])] = rows[i], True
                h = bert(self.weights, jnp.asarray(tokens), jnp.asarray(mask), self.heads, self.eps)
                out[batch] = np.asarray(mean_pool(h, jnp.asarray(mask)))[: len(batch)]
                bar.advance(len(batch))
        return out


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:32]


def _load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    wanted = {"model_type": "bert", "hidden_act": "gelu"}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise InputError(f"Expected {key} '{value}' in {path.parent}, got '{config.get(key)}'.")
    if not path.is_file():
        raise InputError(f"Expected {path.name} in {path.parent}, found none.")
    with safe_open(path, "np") as file:
        # Some checkpoints hold the model under a prefix.
        names = {name.removeprefix("bert."): name for name in file.keys()}  # noqa: SIM118

        def get(name: str) -> Array:
            if name not in names:
                raise InputError(f"Expected the tensor {name} in {path}, it is missing.")
            return jnp.asarray(file.get_tensor(names[name]).astype(np.float32))

        def pair(name: str) -> tuple[Array, Array]:
            return get(f"{name}.weight"), get(f"{name}.bias")

        layers = [
            {key: pair(f"encoder.layer.{i}.{name}") for key, name in _LAYER.items()}
            for i in range(int(config["num_hidden_layers"]))
        ]
        weights: dict[str, Any] = {n: get(f"embeddings.{n}.weight") for n in _EMBEDDINGS}
        weights["norm"] = pair("embeddings.LayerNorm")
        weights["layers"] = jax.tree.map(lambda *parts: jnp.stack(parts), *layers)
    return weights
