"""Steered generation: tokens per second, beside transformers with hooks.

    python benchmarks/generate.py                10 queries x 16 prompts x 7 strengths, 100 tokens
    python benchmarks/generate.py --scale 0.02   fewer queries and strengths

Equation 4 steers one MLP site along a random direction for each query. This project generates all
of queries x prompts x strengths in large batches, each text under its own edit. transformers
generates with a hook in a loop: once for each query, strength and prompt (`loop`; a part of it is
timed, its rate counts), and once for each query and strength with the prompts as one padded batch
(`batched loop`). All decode greedily in float32, with the same number of threads, and none stops
before its last token.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import numpy as np
from measure import in_transformers, in_turn, machine, options, rates, save, use_threads

GOAL = 5.0
STRENGTHS = (-8.0, -4.0, -2.0, 2.0, 4.0, 8.0, 16.0)
PROMPTS = (
    "The weather today is",
    "My favourite animal is",
    "In the middle of the night",
    "The most important thing about",
    "She opened the door and",
    "Scientists have recently found that",
    "Once upon a time",
    "The recipe begins with",
    "He could not believe that",
    "On the other side of the river",
    "The history of the city",
    "I think that we should",
    "When the train arrived",
    "The book tells the story of",
    "It is well known that",
    "After a long day at work",
)


def theirs(model: Any, tokenizer: Any, layer: int, case: tuple, prompts: list[str], new: int):
    """One call of `generate`, steered by a hook before the down projection."""
    import torch

    vector, strength = case
    step = strength * torch.tensor(vector)

    def steer(_module: Any, inputs: tuple) -> tuple:
        acts = inputs[0]
        moved = acts + step
        scale = acts.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
        return (moved * scale,)

    handle = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(steer)
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model.generate(
            **batch, max_new_tokens=new, min_new_tokens=new, do_sample=False, eos_token_id=None
        )
    handle.remove()
    return [tokenizer.decode(row[-new:], skip_special_tokens=True) for row in out]


def main(arguments: argparse.Namespace) -> None:
    threads = use_threads(arguments.threads)
    import torch
    from transformers import AutoTokenizer

    from atlas_jax.models import Edit, generate, load_model
    from atlas_jax.models.lookup import find_checkpoint

    torch.set_num_threads(threads)
    here = machine()  # with the load before the first run
    model = load_model(arguments.model)
    model.stop_ids, model.tokenizer.eos_id = (), None  # every text runs to its last token
    folder = find_checkpoint(arguments.model)
    other = in_transformers(folder)
    other.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    layer, new = model.arch.n_layers // 2, arguments.new_tokens
    site = f"blocks.{layer}.mlp.hook_post"
    share = arguments.scale**0.5
    queries, strengths = max(1, round(10 * share)), max(1, round(7 * share))
    draws = np.random.default_rng(0).standard_normal((queries, model.width(site)))
    vectors = (draws / np.linalg.norm(draws, axis=1, keepdims=True)).astype(np.float32)
    cases = list(itertools.product(vectors, STRENGTHS[:strengths]))
    prompts = list(PROMPTS[: arguments.prompts])
    texts = prompts * len(cases)
    edits = [[Edit(site, vector, strength)] for vector, strength in cases for _ in prompts]
    single = [(cases[0], prompt) for prompt in prompts[: arguments.loop]]
    print(f"{queries} queries x {len(prompts)} prompts x {strengths} strengths, {threads} threads")

    def all_at_once() -> list[str]:
        return generate(model, texts, edits, new, batch_size=min(arguments.batch, len(texts)))

    def batched_loop() -> list[str]:
        found = [theirs(other, tokenizer, layer, case, prompts, new) for case in cases]
        return list(itertools.chain(*found))

    def loop() -> list[str]:
        return [theirs(other, tokenizer, layer, case, [p], new)[0] for case, p in single]

    start = time.perf_counter()
    mine = all_at_once()
    warm_up = time.perf_counter() - start
    reference = batched_loop()
    loop()
    equal = float(np.mean([a == b for a, b in zip(mine, reference, strict=True)]))
    sides = {"atlas_jax": all_at_once, "loop": loop, "batched loop": batched_loop}
    work = {"atlas_jax": len(texts), "loop": len(single), "batched loop": len(texts)}
    seconds = in_turn(sides, arguments.repeats)
    results = rates(seconds, {name: n * new for name, n in work.items()})
    speed = {name: side["tokens_per_s"] for name, side in results.items()}
    ratios = {name: round(speed["atlas_jax"] / speed[name], 3) for name in ("loop", "batched loop")}
    save(
        arguments.out,
        {
            "benchmark": "generate",
            "machine": here,
            "model": arguments.model,
            "site": site,
            "queries": queries,
            "prompts": len(prompts),
            "strengths": list(STRENGTHS[:strengths]),
            "new_tokens": new,
            "scale": arguments.scale,
            "batch": min(arguments.batch, len(texts)),
            "threads": threads,
            "dtype": "float32",
            "share_of_equal_texts": equal,
            "first_run_s": round(warm_up, 2),
            "sides": results,
            "ratios": ratios,
            "goals": {"loop": {"wanted": GOAL, "met": ratios["loop"] >= GOAL}},
        },
    )
    print(json.dumps(ratios))


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "generate")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the whole to run")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--batch", type=int, default=112, help="texts of a batch of ours")
    parser.add_argument("--loop", type=int, default=8, help="prompts that time the plain loop")
    main(parser.parse_args())
