"""Capture of three sites: tokens per second, beside transformers with hooks.

    python benchmarks/forward.py                 SmolLM2 135M on this machine's CPU
    python benchmarks/forward.py --texts 64      a quick look
    python benchmarks/forward.py --gpu           Llama 3.1 8B's shape, random weights, on a GPU

Three sides read the same texts in float32 with the same number of threads, and pool each site over
time into NumPy arrays: this project; transformers with forward hooks on texts as they come, padded
to the longest of a batch; and the same on texts sorted by length. Tokenizing is not measured, nor
are padded positions counted as tokens. transformers runs without its language-model head, but all
of its layers: what hooks give. This project stops after the last layer that is read.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from measure import gpu_peak, in_transformers, in_turn, machine, options, rates, save, use_threads

GOALS = {"padded": 2.0, "sorted": 1.0}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
}
LAYERS = (3, 12, 19, 25, 30)


def texts(n: int) -> list[str]:
    from atlas_jax.corpus import build_corpus

    return build_corpus("packages", n=2 * n, seed=0).train.texts[:n]


def ours(model: Any, rows: list[list[int]], sites: list[str], batch_tokens: int) -> dict[str, Any]:
    """As `capture` does it, but for the store: batches of like length, one kept in flight."""
    from atlas_jax.activations.batches import plan_batches
    from atlas_jax.activations.pool import POOLS

    out = {site: np.empty((len(rows), model.width(site)), np.float32) for site in sites}

    def keep(batch: Any, acts: dict) -> None:
        for site in sites:
            out[site][batch.rows] = np.asarray(acts[site])[: len(batch.rows)]

    waiting = None
    for batch in plan_batches([len(row) for row in rows], batch_tokens):
        ids = [rows[i] for i in batch.rows]
        ids += [ids[0]] * (batch.size - len(ids))
        tokens, mask = model.tokenizer.pad(ids, batch.length)
        acts = model.read(tokens, mask, sites, POOLS["max"])
        if waiting:
            keep(*waiting)
        waiting = (batch, acts)
    if waiting:
        keep(*waiting)
    return out


def theirs(
    model: Any, rows: list[list[int]], layers: list[int], batch: int, pad: int, by_length: bool
) -> dict[int, Any]:
    """Forward hooks before each down projection; batches of so many texts."""
    import torch

    seen: dict[int, Any] = {}
    handles = [
        model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs, layer=layer: seen.__setitem__(layer, inputs[0])
        )
        for layer in layers
    ]
    width = model.config.intermediate_size
    out = {layer: np.empty((len(rows), width), np.float32) for layer in layers}
    order = list(range(len(rows)))
    if by_length:
        order.sort(key=lambda i: len(rows[i]))
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            mine = order[start : start + batch]
            longest = max(len(rows[i]) for i in mine)
            tokens = torch.full((len(mine), longest), pad)
            mask = torch.zeros((len(mine), longest), dtype=torch.long)
            for j, i in enumerate(mine):
                tokens[j, : len(rows[i])] = torch.tensor(rows[i])
                mask[j, : len(rows[i])] = 1
            model(input_ids=tokens, attention_mask=mask, use_cache=False)
            kept = mask.bool()
            kept[:, 0] = False  # the first position is an attention sink
            for layer in layers:
                acts = seen[layer].masked_fill(~kept[:, :, None], -torch.inf)
                out[layer][mine] = acts.amax(dim=1).numpy()
    for handle in handles:
        handle.remove()
    return out


def compare(arguments: argparse.Namespace) -> None:
    threads = use_threads(arguments.threads)
    import torch

    from atlas_jax.models import load_model
    from atlas_jax.models.lookup import find_checkpoint

    torch.set_num_threads(threads)
    here = machine()  # with the load before the first run
    model = load_model(arguments.model)
    folder = find_checkpoint(arguments.model)
    other = in_transformers(folder).model
    sites = list(model.sites)
    layers = [int(site.split(".")[1]) for site in sites]
    rows = model.tokenizer.encode_batch(texts(arguments.texts))
    tokens = sum(map(len, rows))
    pad = model.tokenizer.pad_id
    print(f"{len(rows)} texts, {tokens} tokens, {threads} threads, sites {', '.join(sites)}")

    def plain(by_length: bool) -> dict[int, Any]:
        return theirs(other, rows, layers, arguments.batch, pad, by_length)

    start = time.perf_counter()
    first = ours(model, rows, sites, arguments.batch_tokens)
    warm_up = time.perf_counter() - start
    reference = {by_length: plain(by_length) for by_length in (False, True)}
    errors = [
        float(np.abs(first[site] - side[layer]).max() / np.abs(side[layer]).max())
        for side in reference.values()
        for site, layer in zip(sites, layers, strict=True)
    ]
    sides = {
        "atlas_jax": lambda: ours(model, rows, sites, arguments.batch_tokens),
        "padded": lambda: plain(False),
        "sorted": lambda: plain(True),
    }
    seconds = in_turn(sides, arguments.repeats)
    results = rates(seconds, dict.fromkeys(sides, tokens))
    speed = {name: side["tokens_per_s"] for name, side in results.items()}
    ratios = {name: round(speed["atlas_jax"] / speed[name], 3) for name in GOALS}
    save(
        arguments.out,
        {
            "benchmark": "forward",
            "machine": here,
            "model": arguments.model,
            "sites": sites,
            "layers_run": {"atlas_jax": layers[-1] + 1, "transformers": model.arch.n_layers},
            "texts": len(rows),
            "tokens": tokens,
            "threads": threads,
            "dtype": "float32",
            "largest_relative_difference": max(errors),
            "first_run_s": round(warm_up, 2),
            "sides": results,
            "ratios": ratios,
            "goals": {name: {"wanted": g, "met": ratios[name] >= g} for name, g in GOALS.items()},
        },
    )
    print(json.dumps(ratios))


def random_decoder(arch: Any, dtype: str) -> tuple[Any, Any]:
    """A decoder's graph and state, with weights drawn on the device, one parameter at a time."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from atlas_jax.models.decoder import Decoder

    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(arch, jnp.dtype(dtype))))
    draw = jax.jit(
        lambda key, shape: 0.02 * jax.random.normal(key, shape, jnp.dtype(dtype)), static_argnums=1
    )
    flat = [
        (path, leaf.replace(draw(jax.random.key(i), leaf.shape)))
        for i, (path, leaf) in enumerate(nnx.to_flat_state(state))
    ]
    return graph, nnx.from_flat_state(flat)


def on_gpu(arguments: argparse.Namespace) -> None:
    """Five layers of an 8B model at the lengths that sentences have."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.activations.pool import POOLS
    from atlas_jax.models import parse_site, read_arch
    from atlas_jax.models.language_model import _read

    config = LLAMA | ({"num_hidden_layers": arguments.layers} if arguments.layers else {})
    if arguments.width:
        config |= {"hidden_size": arguments.width, "intermediate_size": 2 * arguments.width}
    arch = read_arch(config)
    graph, state = random_decoder(arch, "bfloat16")
    sites = tuple(
        parse_site(f"blocks.{layer * arch.n_layers // 32}.mlp.hook_post", arch) for layer in LAYERS
    )
    depth = 1 + sites[-1].layer
    peak = gpu_peak(arguments.peak_size)
    attention = arch.d_model * arch.d_head * 2 * (arch.n_heads + arch.n_kv_heads)
    per_layer = 2 * (attention + 3 * arch.d_model * arch.d_mlp)
    buckets = {}
    for length in (32, 64, 128, 256):
        batch = max(1, arguments.batch_tokens // length)
        tokens = jax.random.randint(jax.random.key(0), (batch, length), 0, arch.vocab_size)
        mask = jnp.ones((batch, length), bool)

        def run(tokens: Any = tokens, mask: Any = mask) -> None:
            jax.block_until_ready(_read(graph, state, tokens, mask, sites, POOLS["max"]))

        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
        times = in_turn({f"T={length}": run}, arguments.repeats)[f"T={length}"]
        median = float(np.median(times))
        flops = depth * batch * length * (per_layer + 4 * length * arch.n_heads * arch.d_head)
        buckets[length] = {
            "batch": batch,
            "compile_s": round(first - median, 2),
            "median_s": round(median, 4),
            "tokens_per_s": round(batch * length / median),
            "tflops": round(flops / median / 1e12, 2),
            "share_of_peak": round(flops / median / peak, 4),
        }
        print(length, buckets[length], flush=True)
    save(
        arguments.out.with_name("forward_gpu.json"),
        {
            "benchmark": "forward --gpu",
            "machine": machine(),
            "shape": config,
            "sites": [str(site) for site in sites],
            "dtype": "bfloat16",
            "measured_peak_tflops": round(peak / 1e12, 2),
            "buckets": buckets,
        },
    )


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "forward")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch of transformers")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="positions of a batch, ours")
    parser.add_argument("--gpu", action="store_true", help="an 8B shape with random weights")
    parser.add_argument("--layers", type=int, default=0, help="with --gpu: fewer layers")
    parser.add_argument("--width", type=int, default=0, help="with --gpu: a narrower model")
    parser.add_argument("--peak-size", type=int, default=8192, help="with --gpu: of the product")
    given = parser.parse_args()
    on_gpu(given) if given.gpu else compare(given)
