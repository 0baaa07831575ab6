"""Capture from texts to disk, beside the script that one would write: rows/s, bytes, padding.

    python benchmarks/capture.py                 SmolLM2 135M on this machine
    python benchmarks/capture.py --texts 256 --repeats 2    a quick look

Four sides read the same texts in float32 with the same number of threads and max-pool three sites
over time; tokenizing is part of the time, loading the model is not.

    atlas_jax   `capture` into a new store, every part on the disk at the end
    unstored    the same without a store: what storing costs
    script      transformers, forward hooks, batches of 32 texts as they come, a NumPy memmap
    sorted      the same on texts sorted by length

`plans` counts padding and shapes of batches without running them. The first run of this project
compiles; it is timed apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import (
    disk_bytes,
    in_transformers,
    in_turn,
    machine,
    options,
    rates,
    save,
    use_threads,
)

GOALS = {"script": 2.0, "sorted": 1.0}
STORING = 0.10
PADDING = 0.10


class Nowhere:
    """A sink that keeps nothing."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.waited = self.busy = 0.0
        self.bytes = 0

    def write(self, part: int, start: int, arrays: Any) -> None: ...

    def check(self) -> None: ...

    def finish(self) -> None: ...


def unstored(model: Any, texts: Any, sites: list[str], batch_tokens: int) -> Any:
    """`capture` but for the store."""
    from atlas_jax.activations.parts import cut_into_parts
    from atlas_jax.activations.recorder import record
    from atlas_jax.activations.recording import Recording
    from atlas_jax.activations.tokens import tokenize

    recording = Recording.ask(model, sites, "max", None, texts, 512)
    tokens = tokenize(model.tokenizer, texts, 512, "")
    rows = recording.plan(tokens, batch_tokens, None)["rows_per_part"]
    parts = cut_into_parts(rows, tokens, by_token=False)
    return record(recording, tokens, parts, range(len(parts)), batch_tokens, Nowhere(), "")


def script(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    layers: list[int],
    batch: int,
    by_length: bool,
    out: Path,
) -> tuple[int, int]:
    """Hooks before each down projection, max over tokens but the first, one memmap for each layer.

    Returns:
        Positions computed, and shapes of batches.
    """
    import torch

    rows = tokenizer.encode_batch(texts)
    seen: dict[int, Any] = {}
    handles = [
        model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs, layer=layer: seen.__setitem__(layer, inputs[0])
        )
        for layer in layers
    ]
    out.mkdir(parents=True)
    shape = (len(rows), model.config.intermediate_size)
    maps = {
        layer: np.lib.format.open_memmap(out / f"{layer}.npy", "w+", np.float32, shape)
        for layer in layers
    }
    order = np.argsort([len(row) for row in rows]) if by_length else np.arange(len(rows))
    positions, shapes = 0, set()
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            mine = order[start : start + batch]
            longest = max(len(rows[i]) for i in mine)
            tokens = torch.full((len(mine), longest), tokenizer.pad_id)
            mask = torch.zeros((len(mine), longest), dtype=torch.long)
            for j, i in enumerate(mine):
                tokens[j, : len(rows[i])] = torch.tensor(rows[i])
                mask[j, : len(rows[i])] = 1
            model(input_ids=tokens, attention_mask=mask, use_cache=False)
            kept = mask.bool()
            kept[:, 0] = False  # the first position is an attention sink
            for layer in layers:
                acts = seen[layer].masked_fill(~kept[:, :, None], -torch.inf)
                maps[layer][mine] = acts.amax(dim=1).numpy()
            positions += tokens.numel()
            shapes.add(tuple(tokens.shape))
    for array in maps.values():
        array.flush()
    for handle in handles:
        handle.remove()
    return positions, len(shapes)


def plans(lengths: np.ndarray, row_bytes: int) -> list[dict[str, Any]]:
    """Padding and shapes by number of texts and size of a batch."""
    from atlas_jax.activations.batches import plan_batches
    from atlas_jax.activations.parts import rows_of_a_part

    found = []
    for n in sorted({min(n, len(lengths)) for n in (900, 2700, 16000)}):
        for batch_tokens in (1024, 2048, 8192):
            some = lengths[:n]
            rows = rows_of_a_part(some.mean(), batch_tokens, row_bytes)
            plan = [
                batch
                for start in range(0, n, rows)
                for batch in plan_batches(some[start : start + rows], batch_tokens)
            ]
            positions = sum(batch.size * batch.length for batch in plan)
            found.append(
                {
                    "texts": n,
                    "batch_tokens": batch_tokens,
                    "rows_per_part": rows,
                    "batches": len(plan),
                    "shapes": len({(batch.size, batch.length) for batch in plan}),
                    "padding": round(1 - float(some.sum()) / positions, 4),
                }
            )
    return found


def compare(arguments: argparse.Namespace) -> None:
    threads = use_threads(arguments.threads)
    import torch

    from atlas_jax.activations import ActivationStore, capture
    from atlas_jax.corpus import build_corpus
    from atlas_jax.models import load_model
    from atlas_jax.models.lookup import find_checkpoint

    torch.set_num_threads(threads)
    here = machine()  # with the load before the first run
    model = load_model(arguments.model)
    other = in_transformers(find_checkpoint(arguments.model)).model
    sites = list(model.sites)
    layers = [int(site.split(".")[1]) for site in sites]
    corpus = build_corpus("packages", n=2 * max(arguments.texts, 16_000), seed=0).train
    texts = corpus[: arguments.texts]
    plain = [str(text) for text in texts]
    all_lengths = np.array([len(row) for row in model.tokenizer.encode_batch(list(corpus))])
    lengths = all_lengths[: len(texts)]
    folder = Path(tempfile.mkdtemp(dir=arguments.disk))
    print(f"{len(texts)} texts, {lengths.sum()} tokens, {threads} threads, {', '.join(sites)}")

    def ours() -> ActivationStore:
        out = folder / "atlas_jax"
        return capture(model, texts, sites, out=out, batch_tokens=arguments.batch_tokens)

    def theirs(name: str) -> tuple[int, int]:
        by_length = name == "sorted"
        out = folder / name
        return script(other, model.tokenizer, plain, layers, arguments.batch, by_length, out)

    start = time.perf_counter()
    store = ours()
    first_run = time.perf_counter() - start
    bare = unstored(model, texts, sites, arguments.batch_tokens)
    shapes = {name: theirs(name) for name in ("script", "sorted")}
    errors = []
    for site, layer in zip(sites, layers, strict=True):
        mine = store[site][:]
        for name in shapes:
            hooked = np.load(folder / name / f"{layer}.npy")
            errors.append(float(np.abs(mine - hooked).max() / np.abs(hooked).max()))
    sizes = {name: disk_bytes(folder / name) for name in ("atlas_jax", "script", "sorted")}
    sides = {
        "atlas_jax": ours,
        "unstored": lambda: unstored(model, texts, sites, arguments.batch_tokens),
        "script": lambda: theirs("script"),
        "sorted": lambda: theirs("sorted"),
    }
    seconds = in_turn(
        sides,
        arguments.repeats,
        lambda name: shutil.rmtree(folder / name, ignore_errors=True),
    )
    (report,) = ActivationStore.open(folder / "atlas_jax").report
    shutil.rmtree(folder)
    results = rates(seconds, dict.fromkeys(sides, len(texts)), "texts")
    padding = {"atlas_jax": (report["positions"], report["shapes"]), **shapes}
    for name, (positions, count) in padding.items():
        results[name] |= {
            "padding": round(1 - float(lengths.sum()) / positions, 4),
            "shapes": count,
            "bytes": sizes[name],
        }
    speed = {name: side["texts_per_s"] for name, side in results.items()}
    ratios = {name: round(speed["atlas_jax"] / speed[name], 3) for name in GOALS}
    pairs = zip(seconds["atlas_jax"], seconds["unstored"], strict=True)
    storing = statistics.median(stored / bare - 1 for stored, bare in pairs)
    goals = {name: {"wanted": g, "met": ratios[name] >= g} for name, g in GOALS.items()}
    goals["storing"] = {"wanted": STORING, "met": storing <= STORING}
    goals["padding"] = {"wanted": PADDING, "met": results["atlas_jax"]["padding"] <= PADDING}
    save(
        arguments.out,
        {
            "benchmark": "capture",
            "machine": here,
            "model": arguments.model,
            "sites": sites,
            "texts": len(texts),
            "tokens": int(lengths.sum()),
            "threads": threads,
            "dtype": "float32",
            "batch_tokens": arguments.batch_tokens,
            "largest_relative_difference": max(errors),
            "first_run_s": round(first_run, 2),
            "compiled_shapes": bare.shapes,
            "sides": results,
            "ratios": ratios,
            "cost_of_storing": round(storing, 4),
            "report": report,
            "plans": plans(all_lengths, 4 * sum(model.width(site) for site in sites)),
            "goals": goals,
        },
    )
    print(json.dumps({**ratios, "cost_of_storing": round(storing, 4)}))


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "capture")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch of the script")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="positions of a batch, ours")
    parser.add_argument("--disk", type=Path, help="folder of the stores; default: a temporary one")
    compare(parser.parse_args())
