"""Training an atlas: a sparse autoencoder of token activations, on any machine.

Attention sinks are left out (see `sinks`). What is trained reads standardised activations; what is
saved reads raw ones (see `standard`). Batch-top-k is saved as JumpReLU, whose one threshold, in the
standardised space, is the mean over batches of the smallest activation that batch-top-k kept,
of the last steps, measured with the final weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from atlas_jax.atlas.sae import SAE
from atlas_jax.atlas.sinks import content_rows, norm_limit
from atlas_jax.atlas.token_activations import TokenSource, fingerprint
from atlas_jax.atlas.training.activations import batch_top_k
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.atlas.training.slots import encode_all
from atlas_jax.atlas.training.standard import Standard, fold, measure
from atlas_jax.atlas.training.state import Losses, State, Weights, init, load_state, save_state
from atlas_jax.atlas.training.step import update
from atlas_jax.atlas.training.windows import Windows
from atlas_jax.errors import InputError
from atlas_jax.files import write_json
from atlas_jax.outside import read_json
from atlas_jax.progress import Bar

_THRESHOLD_BATCHES = 64
_REPORT_STEPS = 50


def train_atlas(
    source: TokenSource,
    out: str | os.PathLike[str],
    site: str,
    model_name: str,
    recipe: Recipe | None = None,
    *,
    heldout: int = 512,
    checkpoint_steps: int = 200,
    report: Callable[[str], None] | None = None,
    half: bool = True,
    mesh: Mesh | None = None,
) -> SAE:
    """Trains an autoencoder and saves it as a SAELens folder.

    Args:
        source: activations of the site, recorded or straight from the model.
        out: the folder. An interrupted training in it resumes, to the same bits; a finished one by
            the same recipe is loaded. training.json keeps the recipe and the losses.
        site: what is read, for the folder's cfg.json.
        model_name: whose activations they are.
        recipe: how to train.
        heldout: contexts at the end of `source` that training never sees.
        checkpoint_steps: steps between checkpoints.
        report: called with a line now and then.
        half: save the matrices in float16 (thresholds and biases stay float32).
        mesh: its `data` axis shares the batch; the result is the same up to rounding.

    Returns:
        The autoencoder as it was saved; it reads raw activations.

    Raises:
        InputError: too few activations, a batch that the mesh cannot share, or a folder with a
            training by another recipe.
    """
    from atlas_jax.atlas.formats.saelens import load_saelens, save_saelens

    out, recipe = Path(out), recipe or Recipe()
    if mesh is not None and recipe.batch % mesh.shape["data"]:
        raise InputError(
            f"Expected a batch that {mesh.shape['data']} devices can share, got {recipe.batch}."
        )
    contexts = max(0, len(source.tokens) - heldout)
    windows = Windows(source, contexts, recipe)
    steps = max(1, round(recipe.epochs * windows.per_epoch))
    plan: dict[str, Any] = asdict(recipe) | {
        "contexts": contexts,
        "context_length": source.tokens.shape[1],
        "tokens": fingerprint(source),
        "site": site,
        "model_name": model_name,
    }
    log = out / "training.json"
    if finished(log, plan):
        return load_saelens(out).sae
    out.mkdir(parents=True, exist_ok=True)
    first = windows.first()
    windows.limit = norm_limit(first)
    content = first[content_rows(first, windows.limit)]
    standard = measure(content, recipe.per_dimension)
    start = init(source.width, recipe, steps, standard(jnp.asarray(content[: recipe.batch])))
    del first, content
    checkpoint, name = out / "training.safetensors", json.dumps(plan, sort_keys=True)
    state, losses = _train(
        *load_state(start, checkpoint, name),
        windows,
        standard,
        recipe,
        steps,
        mesh,
        lambda state, losses: save_state(state, losses, checkpoint, name),
        checkpoint_steps,
        report,
    )
    theta = 0.0
    if recipe.architecture == "batch_top_k":
        last = range(max(0, steps - _THRESHOLD_BATCHES), steps)
        theta = smallest_kept(state.weights, windows.batch, last, standard, recipe)
    sae = fold(state.weights, standard, recipe, theta)
    save_saelens(sae, out, site=site, model_name=model_name, max_norm=windows.limit, half=half)
    write_json(log, plan | {"steps": steps, "losses": losses})
    checkpoint.unlink(missing_ok=True)
    return load_saelens(out).sae


def finished(log: Path, plan: dict[str, Any]) -> bool:
    """Whether a folder holds the end of this very training.

    Raises:
        InputError: it holds that of another one.
    """
    if not log.exists():
        return False
    found = read_json(log)
    other = [key for key, value in plan.items() if found.get(key) != value]
    if other:
        key = other[0]
        raise InputError(
            f"Expected {key}={plan[key]!r} in {log.parent}, it holds an atlas trained with "
            f"{found.get(key)!r}. Use another folder, or delete {log.name}."
        )
    return True


def _train(
    state: State,
    losses: Losses,
    windows: Windows,
    standard: Standard,
    recipe: Recipe,
    steps: int,
    mesh: Mesh | None,
    save: Callable[[State, Losses], None],
    checkpoint_steps: int,
    report: Callable[[str], None] | None,
) -> tuple[State, Losses]:
    """All steps that are left; saves now and then. Returns the reports of every 50th step too."""
    done, started = int(state.step), time.monotonic()
    if mesh is not None:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    with Bar("training the atlas", steps) as bar:
        bar.advance(done)
        for step in range(done, steps):
            x = standard(_placed(windows.batch(step), mesh))
            state, numbers = update(state, x, recipe, steps, mesh)
            bar.advance()
            if (step + 1) % _REPORT_STEPS == 0 or step + 1 == steps:
                values = {key: round(float(value), 5) for key, value in numbers.items()}
                losses.append({"step": step + 1, **values})
                if not np.isfinite(values["loss"]):
                    raise InputError(
                        f"The loss is {values['loss']} at step {step + 1}: use a smaller rate than "
                        f"{recipe.rate}, or float32."
                    )
                if report:
                    pace = (time.monotonic() - started) / (step + 1 - done)
                    report(f"step {step + 1}/{steps} {values} {pace:.3f} s/step")
            if (step + 1) % checkpoint_steps == 0 and step + 1 < steps:
                save(state, losses)
    return state, losses


def _placed(x: np.ndarray, mesh: Mesh | None) -> Float[Array, "n d"]:
    if mesh is None:
        return jnp.asarray(x)
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))


def smallest_kept(
    weights: Weights,
    batch: Callable[[int], np.ndarray],
    steps: range,
    standard: Standard,
    recipe: Recipe,
) -> float:
    """Batch-top-k's threshold: the smallest activation it keeps, mean over batches.

    Args:
        weights: the final ones.
        batch: raw activations of a step.
        steps: which ones.
        standard: of these activations.
        recipe: k and cap.
    """

    @jax.jit
    def smallest(weights: Weights, x: Float[Array, "n d"]) -> Float[Array, ""]:
        encoder = weights.encoder.astype(recipe.compute)
        z = encode_all(x.astype(recipe.compute), encoder, weights.b_enc)
        values, _ = batch_top_k(weights, z, recipe, None)
        return jnp.min(jnp.where(values > 0, values, jnp.inf))

    weights = jax.device_put(weights, jax.devices()[0])
    found = [float(smallest(weights, standard(jnp.asarray(batch(i))))) for i in steps]
    return float(np.mean(found))
