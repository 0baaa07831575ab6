"""A step of training: the loss of a batch of answers, and what is learned from it."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.models.decoder import Decoder
from atlas_jax.models.sites import Site
from atlas_jax.verbalize.training.low_rank import adapt
from atlas_jax.verbalize.training.plan import TrainingPlan
from atlas_jax.verbalize.training.prompt import Prompt
from atlas_jax.verbalize.training.state import State


class Trainer:
    """A step, compiled once."""

    def __init__(self, model: Any, place: Site, prompt: Prompt, plan: TrainingPlan) -> None:
        self.graph, self.learned, self.frozen = adapt(model, plan.rank, plan.seed)
        self.optimiser = _optimiser(plan.rate, plan.steps)
        self.place = place if plan.mode == "replace_residual" else None
        self.prompt, self.position = jnp.array(prompt.ids, jnp.int32), prompt.position

    def start(self) -> State:
        return State(self.learned, self.optimiser.init(self.learned), 0, [])

    def step(self, state: State, batch: tuple) -> tuple[Any, Any, Float[Array, ""]]:
        return _step(
            self.graph, self.frozen, state.learned, state.moments, self.prompt,
            *map(jnp.asarray, batch),
            optimiser=self.optimiser, place=self.place, position=self.position,
        )  # fmt: skip

    def loss(self, learned: Any, batch: tuple, size: int) -> float:
        """The mean over examples, `size` at a time."""
        total, count = 0.0, len(batch[0])
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            real = min(size, count - start)
            losses = _losses(
                self.graph, self.frozen, learned, self.prompt,
                *(jnp.asarray(part[rows]) for part in batch),
                place=self.place, position=self.position,
            )  # fmt: skip
            total += float(np.asarray(losses)[:real].sum())
        return total / count


@lru_cache
def _optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """The same object each time, so that a step is compiled once."""
    warm = max(1, steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(steps, warm + 1))
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def _loss(
    learned: Any,
    graph: Any,
    frozen: Any,
    prompt: Int[Array, " p"],
    vectors: Float[Array, "b d"],
    answers: Int[Array, "b t"],
    real: Bool[Array, "b t"],
    place: Site | None,
    position: int,
) -> Float[Array, " b"]:
    """-log p of an answer's tokens, their mean, for each example."""
    decoder: Decoder = nnx.merge(graph, learned, frozen)
    opening = jnp.broadcast_to(prompt[None], (len(answers), len(prompt)))
    tokens = jnp.concatenate([opening, answers.astype(jnp.int32)], axis=1)
    mask = jnp.concatenate([jnp.ones(opening.shape, bool), real], axis=1)
    x = decoder.embed_tokens(tokens)

    def put(h: Array) -> Array:
        return h.at[:, position].set(vectors.astype(h.dtype))

    swaps = {place: put} if place is not None else {}
    x, _, _ = decoder(x if swaps else put(x), mask, swaps=swaps)
    logits = decoder.logits(x[:, len(prompt) - 1 : -1])
    each = optax.softmax_cross_entropy_with_integer_labels(logits, answers.astype(jnp.int32))
    weight = real.astype(jnp.float32)
    return (each * weight).sum(axis=1) / weight.sum(axis=1)


_losses = partial(jax.jit, static_argnames=("place", "position", "graph"))(
    lambda graph, frozen, learned, prompt, vectors, answers, real, *, place, position: _loss(
        learned, graph, frozen, prompt, vectors, answers, real, place, position
    )
)


@partial(jax.jit, static_argnames=("graph", "optimiser", "place", "position"))
def _step(
    graph: Any,
    frozen: Any,
    learned: Any,
    moments: Any,
    prompt: Int[Array, " p"],
    vectors: Float[Array, "b d"],
    answers: Int[Array, "b t"],
    real: Bool[Array, "b t"],
    *,
    optimiser: Any,
    place: Site | None,
    position: int,
) -> tuple[Any, Any, Float[Array, ""]]:
    def mean(learned: Any) -> Float[Array, ""]:
        return _loss(learned, graph, frozen, prompt, vectors, answers, real, place, position).mean()

    value, slope = jax.value_and_grad(mean)(learned)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's own
        updates, moments = optimiser.update(slope, moments, learned)
        learned = optax.apply_updates(learned, updates)
    return learned, moments, value
