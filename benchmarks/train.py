"""Training a sparse autoencoder: steps per second and variance explained, beside SAELens.

    pip install 'sae-lens>=6.54,<7'              once, into this environment
    atlas-jax atlas train runs/atlas             records the tokens that both sides read
    python benchmarks/train.py runs/atlas/recordings
    python benchmarks/train.py runs/atlas/recordings --tokens 24000 --rates 1e-3   a quick look

Both sides take the same batches in the same order: standardised tokens (mean removed, one scale),
without attention sinks, in memory as float32. Both have the same width, k and batch, Adam, and the
same schedule of the learning rate. SAELens runs its own `SAETrainer` with its defaults otherwise,
in float32. Each side trains once for each of `--rates`, and its best run counts. Both are measured
on tokens that training did not see, at the same L0.

Speed is that of the step alone: batches are ready, nothing is saved, and steps of both sides
alternate in blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import in_turn, machine, options, save, use_threads

GOALS = {"steps_per_s_ratio": 1.5, "fve_difference": -0.01}
ARCHITECTURES = ("batch_top_k", "top_k", "jumprelu")


def tokens_of(folder: Path, wanted: int, heldout: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised training and held-out tokens of a recording, float32."""
    from atlas_jax.atlas import open_activations
    from atlas_jax.atlas.sinks import content_rows, norm_limit

    acts = open_activations(folder).acts[: wanted + heldout]
    rows = content_rows(acts, norm_limit(acts))
    x = np.asarray(acts[rows], np.float32)
    train, held = x[:-heldout], x[-heldout:]
    mean = train.mean(0, dtype=np.float64)
    scale = 1 / np.sqrt(train.var(0, dtype=np.float64).mean())
    return tuple(((part - mean) * scale).astype(np.float32) for part in (train, held))


def batches(x: np.ndarray, size: int, steps: int) -> Callable[[int], np.ndarray]:
    """The batch of a step: every pass over the tokens is a shuffle of its own."""
    per_pass = len(x) // size
    orders = [
        np.random.default_rng((0, i)).permutation(len(x)) for i in range(1 + steps // per_pass)
    ]

    def batch(step: int) -> np.ndarray:
        order, place = orders[step // per_pass], step % per_pass
        return x[order[place * size : (place + 1) * size]]

    return batch


class Ours:
    """This project's step."""

    def __init__(
        self, arguments: argparse.Namespace, steps: int, rate: float, first: np.ndarray
    ) -> None:
        import jax.numpy as jnp

        from atlas_jax.atlas.training import Recipe
        from atlas_jax.atlas.training.state import init

        self.recipe = Recipe(
            architecture=arguments.architecture,
            n_features=arguments.features,
            k=arguments.k,
            batch=arguments.batch,
            rate=rate,
        )
        self.steps = steps
        self.state = init(first.shape[1], self.recipe, steps, jnp.asarray(first))

    def run(self, get: Callable[[int], np.ndarray], start: int, stop: int) -> None:
        import jax
        import jax.numpy as jnp

        from atlas_jax.atlas.training.step import update

        for step in range(start, stop):
            self.state, _ = update(self.state, jnp.asarray(get(step)), self.recipe, self.steps)
        jax.block_until_ready(self.state)

    def weights(self, get: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
        import jax.numpy as jnp

        from atlas_jax.atlas.training.standard import Standard, fold
        from atlas_jax.atlas.training.train import smallest_kept

        as_it_is = Standard(jnp.zeros(get(0).shape[1]), jnp.ones(get(0).shape[1]))
        theta = 0.0
        if self.recipe.architecture == "batch_top_k":
            last = range(max(0, self.steps - 64), self.steps)
            theta = smallest_kept(self.state.weights, get, last, as_it_is, self.recipe)
        sae = fold(self.state.weights, as_it_is, self.recipe, theta)
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        return {n: np.asarray(v) for n in names if (v := getattr(sae, n)) is not None}


class Theirs:
    """SAELens' trainer."""

    def __init__(self, arguments: argparse.Namespace, steps: int, rate: float) -> None:
        import sae_lens
        import torch
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(0)
        self.torch, self.rate = torch, rate
        size = {"d_in": arguments.width, "d_sae": arguments.features, "device": "cpu"}
        kind, more = {
            "batch_top_k": ("BatchTopK", {"k": arguments.k}),
            "top_k": ("TopK", {"k": arguments.k}),
            "jumprelu": (
                "JumpReLU",
                {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": arguments.k},
            ),
        }[arguments.architecture]
        config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(**size, dtype="float32", **more)
        self.sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
        self.trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=steps * arguments.batch,
                train_batch_size_samples=arguments.batch,
                lr=rate,
                lr_end=0.0,
                lr_warm_up_steps=max(1, round(0.03 * steps)),
                lr_decay_steps=round(0.4 * steps),
                dead_feature_window=max(1, 100_000 // arguments.batch),
            ),
            self.sae,
            iter(()),
        )

    def run(self, get: Callable[[int], np.ndarray], start: int, stop: int) -> None:
        for step in range(start, stop):
            self.trainer.step(self.torch.from_numpy(get(step)))
            self.trainer.n_training_steps += 1

    def weights(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        with tempfile.TemporaryDirectory() as folder:
            self.sae.save_inference_model(folder)
            found = load_file(Path(folder) / "sae_weights.safetensors")
            config = json.loads((Path(folder) / "cfg.json").read_text())
        if config["apply_b_dec_to_input"]:
            found["b_enc"] = found["b_enc"] - found["b_dec"] @ found["W_enc"]
        return found


def quality(weights: dict[str, np.ndarray], held: np.ndarray, k: int) -> dict[str, float]:
    """FVE at an L0 of k, the L0 that the saved thresholds give, and the share of dead features.

    A common amount is added to all thresholds, so that both sides are compared at the same L0;
    top-k, which has no threshold, takes the k largest of each token.
    """
    import jax

    @jax.jit
    def encode(x):
        z = jax.numpy.matmul(x, weights["W_enc"], precision="highest") + weights["b_enc"]
        return jax.nn.relu(z)

    theta = weights.get("threshold")
    parts = [held[i : i + 1024] for i in range(0, len(held), 1024)]
    above = [] if theta is None else [np.asarray(encode(x)) - theta for x in parts]
    if theta is not None:
        margin = np.concatenate([a[a > -theta.min()].ravel() for a in above])
        more = np.partition(margin, -k * len(held))[-k * len(held)]
    counts, active, error = 0.0, 0.0, 0.0
    for i, x in enumerate(parts):
        f = np.asarray(encode(x))
        if theta is None:
            chosen = f >= np.partition(f, -k, axis=1)[:, -k, None]
        else:
            chosen = above[i] >= more
            active += float((above[i] > 0).sum())
        f = np.where(chosen, f, 0.0)
        counts = counts + (f > 0).sum(0)
        error += float(((x - f @ weights["W_dec"] - weights["b_dec"]) ** 2).sum(dtype=np.float64))
    total = float(((held - held.mean(0)) ** 2).sum(dtype=np.float64))
    return {
        "fve": round(1 - error / total, 5),
        "l0": round(float(np.sum(counts) / len(held)), 3),
        "l0_of_saved_thresholds": round(active / len(held), 3) if above else float(k),
        "dead_share": round(float((counts == 0).mean()), 5),
    }


def main(arguments: argparse.Namespace) -> None:
    threads = use_threads(arguments.threads)
    try:
        import sae_lens
    except ImportError as error:
        sys.exit(f"This benchmark needs SAELens ({error}): pip install 'sae-lens>=6.54,<7'")
    import torch

    torch.set_num_threads(threads)
    here = machine()  # with the load before the first run
    train, held = tokens_of(arguments.recordings, arguments.tokens, arguments.heldout)
    arguments.width = train.shape[1]
    steps = max(1, round(arguments.epochs * (len(train) // arguments.batch)))
    get = batches(train, arguments.batch, steps)
    print(f"{len(train)} tokens, {steps} steps, {threads} threads, {arguments.architecture}")

    results: dict[str, Any] = {}
    for rate in arguments.rates:
        ours, theirs = Ours(arguments, steps, rate, get(0)), Theirs(arguments, steps, rate)
        for name, side, weights in (
            ("atlas_jax", ours, lambda ours=ours: ours.weights(get)),
            ("sae_lens", theirs, theirs.weights),
        ):
            start = time.perf_counter()
            side.run(get, 0, steps)
            seconds = time.perf_counter() - start
            found = quality(weights(), held, arguments.k)
            results[f"{name} {rate:g}"] = {"rate": rate, **found, "seconds": round(seconds, 1)}
            print(name, results[f"{name} {rate:g}"], flush=True)
    best = {
        side: max((n for n in results if n.startswith(side)), key=lambda n: results[n]["fve"])
        for side in ("atlas_jax", "sae_lens")
    }

    # States at the end of training, as most steps see them: dead features are being revived.
    block = arguments.block
    ready = [get(i) for i in range(min(block, steps))]
    ours.run(ready.__getitem__, 0, 2)
    sides = {
        "atlas_jax": lambda: ours.run(ready.__getitem__, 0, len(ready)),
        "sae_lens": lambda: theirs.run(ready.__getitem__, 0, len(ready)),
    }
    timed = {}
    for name, times in in_turn(sides, arguments.repeats).items():
        median = float(np.median(times))
        timed[name] = {
            "seconds": [round(t, 4) for t in times],
            "median_s": round(median, 4),
            "steps_per_s": round(len(ready) / median, 4),
        }
    measured = {
        "steps_per_s_ratio": round(
            timed["atlas_jax"]["steps_per_s"] / timed["sae_lens"]["steps_per_s"], 3
        ),
        "fve_difference": round(
            results[best["atlas_jax"]]["fve"] - results[best["sae_lens"]]["fve"], 5
        ),
    }
    save(
        arguments.out,
        {
            "benchmark": "train",
            "machine": here | {"sae_lens": sae_lens.__version__},
            "architecture": arguments.architecture,
            "tokens": len(train),
            "heldout_tokens": len(held),
            "width": arguments.width,
            "features": arguments.features,
            "k": arguments.k,
            "batch": arguments.batch,
            "steps": steps,
            "threads": threads,
            "dtype": "float32",
            "quality": results,
            "best": best,
            "speed": {"steps_of_a_block": len(ready), **timed},
            **measured,
            "goals": {n: {"wanted": g, "met": measured[n] >= g} for n, g in GOALS.items()},
        },
    )
    print(json.dumps(measured))


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0], "train")
    parser.add_argument("recordings", type=Path, help="a folder that `atlas train` recorded")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="batch_top_k")
    parser.add_argument("--tokens", type=int, default=160_000, help="to train on")
    parser.add_argument("--heldout", type=int, default=20_000, help="tokens to measure on")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2.5e-3, 5e-3])
    parser.add_argument("--block", type=int, default=10, help="steps that are timed together")
    main(parser.parse_args())
