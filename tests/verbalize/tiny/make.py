"""Trains the two tiny verbalizers that the tests load: a Qwen 2 and a Gemma 3, in minutes.

    python tests/verbalize/tiny/make.py

Each learns to say the words of a concept whose direction is mixed with the mean activation of its
model, at angles around the natural one. They are written as checkpoints of transformers, float16,
with `nla_meta.yaml` and `generation_config.json`, beside this file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from world import (  # noqa: E402
    ADJECTIVES,
    CHAT,
    MARKER,
    NOUNS,
    SPECIAL,
    TAGS,
    TEMPLATE,
    P,
    Q,
    make_world,
    unit,
)

from atlas_jax.models.decoder import Decoder  # noqa: E402
from atlas_jax.models.families import FAMILIES, read_arch  # noqa: E402
from atlas_jax.models.tokenizer import Tokenizer  # noqa: E402
from atlas_jax.models.weights import _tensors  # noqa: E402

STEPS, BATCH = 400, 192
SHARED = {
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
QWEN = SHARED | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": P,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
}
GEMMA = SHARED | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_size": Q,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0,
}


def tokenizer(folder: Path, family: str) -> int:
    """A BPE of the family's own kind, in which each word with its space is a token."""
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner
    from transformers import PreTrainedTokenizerFast

    inner = Inner(models.BPE(unk_token="<unk>", byte_fallback=family == "gemma3"))
    alphabet: list[str] = []
    if family == "gemma3":
        inner.normalizer = normalizers.Replace(" ", "▁")
        inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        inner.decoder = decoders.Sequence(parts)
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    said = " user What does the vector mean ? model"
    words = "".join(f" {word}" for word in (*ADJECTIVES, *NOUNS))
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator([said, words], trainer)
    inner.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{f"{kind}_token": f"<{kind}>" for kind in ("pad", "bos", "eos", "unk")},
        additional_special_tokens=["<turn>", "<end>"],
    )
    made.chat_template = CHAT
    made.save_pretrained(folder)
    return len(made)


def train(arch, tokens: Tokenizer, codes: np.ndarray, words: list[str], rows: np.ndarray, scale):
    units = unit(rows)
    mean = units.mean(axis=0)
    natural, base = np.arccos(np.linalg.norm(mean)), unit(mean)
    print(f"natural angle {np.degrees(natural):.1f} degrees")
    prompt = tokens.chat([{"role": "user", "content": TEMPLATE.format(injection_char=MARKER)}])
    at = prompt.index(tokens.inner.convert_tokens_to_ids(MARKER))
    answers = [
        tokens.inner(f"<explanation> {w}</explanation><end>", add_special_tokens=False)["input_ids"]
        for w in words
    ]
    print("prompt", tokens.tokens(prompt), "answer", tokens.tokens(answers[0]))
    texts = np.array([[*prompt, *answer] for answer in answers], np.int32)

    graph, state = nnx.split(Decoder(arch))
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(state)))
    leaves, tree = jax.tree.flatten(state)
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    leaves = [
        (1 - arch.norm_offset) * jnp.ones(v.shape)
        if "norm" in path or "post" in path
        else jnp.zeros(v.shape)
        if path.endswith("bias")
        else jax.random.normal(k, v.shape) / jnp.sqrt(v.shape[-1 if path == "embed" else -2])
        for path, k, v in zip(paths, keys, leaves, strict=True)
    ]
    params = jax.tree.unflatten(tree, leaves)
    optimiser = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, 4e-3, 100, STEPS), weight_decay=1e-3
    )

    def loss(params, ids, vectors):
        decoder = nnx.merge(graph, params)
        x = decoder.embed_tokens(ids).at[:, at].set(vectors)
        x, _, _ = decoder(x, jnp.ones(ids.shape, bool))
        logits = decoder.logits(x[:, len(prompt) - 1 : -1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, len(prompt) :]).mean()

    @jax.jit
    def step(params, moments, ids, vectors):
        value, grads = jax.value_and_grad(loss)(params, ids, vectors)
        updates, moments = optimiser.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    rng, moments, start = np.random.default_rng(1), optimiser.init(params), time.perf_counter()
    width = codes.shape[1]
    for i in range(STEPS):
        chosen = rng.integers(len(codes), size=BATCH)
        seen = unit(codes[chosen] + 0.6 * rng.standard_normal((BATCH, width)) / np.sqrt(width))
        seen = unit(seen - (seen @ base)[:, None] * base)
        angle = natural * rng.uniform(0.5, 1.3, (BATCH, 1))
        vectors = scale * (np.cos(angle) * base + np.sin(angle) * seen)
        params, moments, value = step(
            params, moments, jnp.asarray(texts[chosen]), jnp.asarray(vectors, jnp.float32)
        )
        if i % 100 == 0 or i == STEPS - 1:
            print(f"{i} loss {float(value):.4f} {time.perf_counter() - start:.0f} s", flush=True)
    return params


def write(folder: Path, arch, params) -> None:
    """The parameters under the names that transformers gives them."""
    from safetensors.numpy import save_file

    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(params)}
    flat = {key: np.asarray(leaf[...]) for key, leaf in flat.items()}
    seen: dict[str, int] = {}
    tensors = {}
    for name, shape, key in _tensors(arch):
        value = flat[key]
        if key.startswith("blocks."):
            value = value[seen.setdefault(key, 0)]
            seen[key] += 1
        if key.endswith(".kernel") and FAMILIES[arch.family].transposed:
            value = value.T
        assert value.shape == shape, (name, value.shape, shape)
        tensors[name] = np.ascontiguousarray(value, np.float16)
    save_file(tensors, folder / "model.safetensors")


def sidecar(folder: Path, tokens: Tokenizer, width: int, block: int, scale) -> None:
    prompt = tokens.chat([{"role": "user", "content": TEMPLATE.format(injection_char=MARKER)}])
    at = prompt.index(tokens.inner.convert_tokens_to_ids(MARKER))
    lines = [
        "kind: nla_model",
        "schema_version: 2",
        "role: av",
        f"d_model: {width}",
        f"extraction_layer_index: {block}",
        f"extraction: {{injection_scale: {scale}}}",
        "tokens:",
        f'  injection_char: "{MARKER}"',
        f"  injection_token_id: {prompt[at]}",
        f"  injection_left_neighbor_id: {prompt[at - 1]}",
        f"  injection_right_neighbor_id: {prompt[at + 1]}",
        "prompt_templates:",
        f"  av: {json.dumps(TEMPLATE)}",
    ]
    (folder / "nla_meta.yaml").write_text("\n".join(lines) + "\n")
    ends = [2, tokens.inner.convert_tokens_to_ids("<end>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


def main() -> None:
    world = make_world()
    rows = world.activations(4000, 1)
    sides = (
        ("qwen2", QWEN, "source", rows[0], 4, 8.0),
        ("gemma3", GEMMA, "target", rows[1], 6, "sqrt_d_model"),
    )
    for name, config, side, acts, block, scale in sides:
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        config = config | {"vocab_size": tokenizer(folder, name)}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        arch, tokens = read_arch(config), Tokenizer(folder)
        number = acts.shape[1] ** 0.5 if isinstance(scale, str) else scale
        params = train(arch, tokens, world.codes(side, True), world.names(True), acts, number)
        write(folder, arch, params)
        sidecar(folder, tokens, acts.shape[1], block, scale)


if __name__ == "__main__":
    main()
