"""Training an atlas: a sparse autoencoder of recorded token activations, on any machine.

Attention sinks are left out (see `sinks`). Activations are standardised: each dimension's mean is
removed and one scale makes E|x|^2 = d (or, with `per_dimension`, each dimension gets variance 1).
After training, the standardisation is folded into the weights and decoder rows are scaled to length
one, so the saved autoencoder reads raw activations:

    f = JumpReLU_theta(x W_enc + b_enc),  x_hat = f W_dec + b_dec

theta is the mean over batches of the smallest activation that batch-top-k kept, measured with the
final weights; in the standardised space it is the same for all features.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import safe_open
from safetensors.numpy import save_file

from atlas_jax.atlas.batch_top_k import Recipe, State, Weights, choose, init, update
from atlas_jax.atlas.sae import SAE
from atlas_jax.atlas.sinks import content_rows, norm_limit
from atlas_jax.atlas.token_activations import TokenActivations
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

_STATISTICS_ROWS = 200_000
_THRESHOLD_BATCHES = 64


def train_atlas(
    acts: TokenActivations,
    out: str | os.PathLike[str],
    site: str,
    model_name: str,
    recipe: Recipe | None = None,
    *,
    heldout: int = 512,
    checkpoint_steps: int = 200,
    report: Callable[[str], None] | None = None,
    half: bool = True,
) -> SAE:
    """Trains an autoencoder and saves it as a SAELens folder.

    Args:
        acts: recorded activations of the site.
        out: the folder; an interrupted training in it resumes, to the same bits.
        site: what was recorded, for the folder's cfg.json.
        model_name: whose activations they are.
        recipe: how to train.
        heldout: contexts at the end of `acts` that training never sees.
        checkpoint_steps: steps between checkpoints.
        report: called with a line now and then.
        half: save the matrices in float16 (thresholds and biases stay float32).

    Returns:
        The autoencoder as it reads raw activations.

    Raises:
        InputError: too few activations, or a folder with a training by another recipe.
    """
    from atlas_jax.atlas.formats.saelens import save_saelens

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    recipe = recipe or Recipe()
    limit = norm_limit(acts.acts)
    rows = content_rows(acts.acts[: training_rows(acts, heldout)], limit)
    if len(rows) < recipe.batch:
        raise InputError(
            f"Expected at least {recipe.batch} training activations (one batch), got {len(rows)}: "
            "record more, hold out fewer contexts, or use a smaller batch."
        )
    mean, scale = statistics(acts.acts, rows, recipe.per_dimension)
    steps = max(1, round(recipe.epochs * (len(rows) // recipe.batch)))
    plan = json.dumps(
        asdict(recipe) | {"rows": len(rows), "site": site, "model_name": model_name}, sort_keys=True
    )
    state = init(len(mean), recipe, steps)
    state, checkpoint = _resume(state, out / "training.safetensors", plan)
    started, done = time.monotonic(), int(state.step)
    with Bar("training the atlas", steps) as bar:
        bar.advance(done)
        for step in range(done, steps):
            x = standardise(acts.acts[rows_of(step, rows, recipe)], mean, scale)
            state, numbers = update(state, x, recipe, steps)
            bar.advance()
            if report and step % 50 == 49:
                values = {key: round(float(value), 4) for key, value in numbers.items()}
                pace = (time.monotonic() - started) / (step + 1 - done)
                report(f"step {step + 1}/{steps} {values} {pace:.3f} s/step")
            if (step + 1) % checkpoint_steps == 0 and step + 1 < steps:
                _save(state, checkpoint, plan)
    theta = _threshold(state.weights, acts, rows, mean, scale, recipe)
    sae = fold(state.weights, mean, scale, theta)
    save_saelens(sae, out, site=site, model_name=model_name, max_norm=limit, half=half)
    checkpoint.unlink(missing_ok=True)
    return sae


def training_rows(acts: TokenActivations, heldout: int) -> int:
    """Number of rows before the held-out contexts."""
    contexts, length = acts.tokens.shape
    return max(0, contexts - heldout) * (length - 1)


def statistics(
    acts: np.ndarray, rows: np.ndarray, per_dimension: bool
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and scale of a site: (x - mean) * scale has E|x|^2 = d; from up to 400,000 rows."""
    sample = np.asarray(acts[rows[:: max(1, len(rows) // _STATISTICS_ROWS)]], np.float32)
    mean = sample.mean(0, dtype=np.float64)
    variance = sample.var(0, dtype=np.float64)
    if not np.isfinite(variance).all() or not variance.any():
        raise InputError("Expected activations that are finite and vary, these do not.")
    if not per_dimension:
        variance = np.full_like(variance, variance.mean())
    scale = 1 / np.sqrt(np.maximum(variance, 1e-6 * variance.mean()))
    return mean.astype(np.float32), scale.astype(np.float32)


def standardise(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Float[Array, "n d"]:
    """(x - mean) * scale, float32."""
    return jnp.asarray((x.astype(np.float32) - mean) * scale)


def fold(weights: Weights, mean: np.ndarray, scale: np.ndarray, theta: float) -> SAE:
    """The same autoencoder on raw activations, with decoder rows of length one.

    W_enc = scale E^T n, b_enc = (b_e - mean (scale E^T)) n, W_dec = D / scale / n,
    b_dec = b_d / scale + mean, threshold = theta n, where n is the length of a row of D / scale.
    """
    encoder, b_enc, decoder, b_dec = (
        np.asarray(a, np.float64)
        for a in (weights.encoder, weights.b_enc, weights.decoder, weights.b_dec)
    )
    raw = decoder / scale.astype(np.float64)
    length = np.linalg.norm(raw, axis=1)
    length = np.where(length > 0, length, 1.0)
    columns = encoder.T * scale.astype(np.float64)[:, None]

    def f32(a: np.ndarray) -> Array:
        return jnp.asarray(a.astype(np.float32))

    return SAE(
        W_enc=f32(columns * length),
        b_enc=f32((b_enc - mean.astype(np.float64) @ columns) * length),
        W_dec=f32(raw / length[:, None]),
        b_dec=f32(b_dec / scale.astype(np.float64) + mean.astype(np.float64)),
        threshold=f32(theta * length),
        architecture="jumprelu",
    )


def rows_of(step: int, rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The rows of a step: each epoch is a shuffle of its own, known from the seed alone."""
    epoch, place = divmod(step, len(rows) // recipe.batch)
    order = _shuffle(recipe.seed, epoch, len(rows))
    return rows[order[place * recipe.batch : (place + 1) * recipe.batch]]


@lru_cache(maxsize=1)
def _shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 2, epoch)).permutation(count)


def _threshold(
    weights: Weights,
    acts: TokenActivations,
    rows: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    recipe: Recipe,
) -> float:
    smallest = jax.jit(lambda x: choose(weights, x, recipe.k, recipe.cap)[2])
    count = min(_THRESHOLD_BATCHES, len(rows) // recipe.batch)
    found = [
        float(smallest(standardise(acts.acts[rows_of(i, rows, recipe)], mean, scale)))
        for i in range(count)
    ]
    return float(np.mean(found))


def _save(state: State, path: Path, plan: str) -> None:
    draft = path.with_suffix(".partial")
    leaves = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    save_file(leaves, draft, metadata={"plan": plan})
    os.replace(draft, path)


def _resume(state: State, path: Path, plan: str) -> tuple[State, Path]:
    if not path.exists():
        return state, path
    with safe_open(path, "np") as file:
        if (file.metadata() or {}).get("plan") != plan:
            raise InputError(
                f"Expected an unfinished training by this recipe in {path.parent}, it holds "
                "another. Use another folder, or delete training.safetensors."
            )
        leaves = [jnp.asarray(file.get_tensor(name)) for name in sorted(file.keys())]
    return jax.tree.unflatten(jax.tree.structure(state), leaves), path
