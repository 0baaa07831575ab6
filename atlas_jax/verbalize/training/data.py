"""Batches that a verbalizer is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from atlas_jax.errors import InputError
from atlas_jax.verbalize.training.examples import Examples
from atlas_jax.verbalize.training.plan import TrainingPlan
from atlas_jax.verbalize.training.prompt import Prompt, answer_tokens
from atlas_jax.verbalize.washout import Background

_BACKGROUND, _HELD = 512, 128


@dataclass(frozen=True)
class TrainingData:
    """What goes in and what is to come out, for training and held out.

    Attributes:
        parts: for `training` and `held`: states, tokens of the answers, and which tokens are real.
        background: some of the states of training.
        scale: the length at which vectors go in.
        stretch: bounds of what angles to the mean state are multiplied by.
    """

    parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    background: Background
    scale: float
    stretch: tuple[float, float]

    @classmethod
    def of(
        cls, examples: Examples, tokenizer: Any, prompt: Prompt, plan: TrainingPlan, model: Any
    ) -> TrainingData:
        tokens, mask = answer_tokens(tokenizer, examples.answers, plan.longest)
        parts = {}
        for name, held in (("training", False), ("held", True)):
            rows = np.flatnonzero(examples.held == held)
            parts[name] = examples.rows[rows], tokens[rows], mask[rows]
        seen = parts["training"][0]
        if len(seen) < 2:
            raise InputError(f"Expected examples to train on, got {len(seen)}: give more texts.")
        chosen = np.random.default_rng(plan.seed).permutation(len(seen))[:_BACKGROUND]
        background = Background(seen[np.sort(chosen)], {"model": model.name})
        scale = background.length
        if plan.mode == "replace_embedding":
            embedded = np.asarray(model.embed(np.array([prompt.ids]))[0], np.float32)
            scale = float(np.median(np.linalg.norm(embedded, axis=1)))
        return cls(parts, background, float(f"{scale:.4g}"), plan.stretch)

    def about(self) -> dict[str, Any]:
        return {key: len(value[0]) for key, value in self.parts.items()} | {"scale": self.scale}

    def batch(
        self, step: int, size: int, seed: int
    ) -> tuple[Float32[np.ndarray, "b d"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """The examples of a step: each pass over them is a shuffle of its own."""
        rows, tokens, mask = self.parts["training"]
        places = np.arange(step * size, (step + 1) * size)
        orders = {
            i: np.random.default_rng([seed, i]).permutation(len(rows))
            for i in set((places // len(rows)).tolist())
        }
        chosen = np.array([orders[int(p) // len(rows)][p % len(rows)] for p in places])
        draw = np.random.default_rng([seed, 1 << 20, step])
        factor = draw.uniform(*self.stretch, size)
        return self.vectors(rows[chosen], factor), tokens[chosen], mask[chosen]

    def held(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        rows, tokens, mask = (part[:_HELD] for part in self.parts["held"])
        return (self.vectors(rows, np.ones(len(rows))), tokens, mask) if len(rows) else None

    def vectors(
        self, rows: Float32[np.ndarray, "b d"], factor: Float[np.ndarray, " b"]
    ) -> Float32[np.ndarray, "b d"]:
        """States at the length they go in with, their angles to the mean state stretched."""
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        base = self.background.direction.astype(np.float32)
        cosine = np.clip(unit @ base, -1, 1)[:, None]
        rest = unit - cosine * base
        rest = rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-6)
        angle = np.arccos(cosine)
        angle = np.minimum(angle * factor[:, None], np.maximum(angle, np.pi / 2))
        return (self.scale * (np.cos(angle) * base + np.sin(angle) * rest)).astype(np.float32)
