"""How to train: everything that decides the result, in one hashable value."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from atlas_jax.errors import InputError

ARCHITECTURES = ("batch_top_k", "top_k", "jumprelu")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        architecture: one of `ARCHITECTURES`.
        n_features: F.
        k: features per token: on every token (top_k) or on average (batch_top_k, jumprelu).
        cap: features per token at most, while training; default 2 k (top_k: k; jumprelu: 4 k).
        batch: tokens per step.
        epochs: passes over the training tokens.
        rate: peak learning rate of Adam.
        warmup: share of the steps over which the rate rises (and jumprelu's penalty with it).
        decay: share of the steps over which the rate falls to zero; 0 keeps it.
        schedule: how it falls, `linear` or `cosine`.
        aux_weight: weight of the auxiliary loss that revives dead features; 0: none.
        aux_features: how many silent features that loss sees.
        aux_k: how many of those a token may use.
        dead_after: tokens of silence that make a feature dead.
        sparsity: jumprelu: weight of its penalty.
        bandwidth: jumprelu: width of the kernel, in units of the standardised activations.
        dtype: of the products, `float32` or `bfloat16`; weights and sums are always float32.
        buffer: tokens that are shuffled together.
        per_dimension: divide each dimension by its own deviation, not all by one scale.
        seed: of initialisation and shuffling.
    """

    architecture: str = "batch_top_k"
    n_features: int = 4096
    k: int = 32
    cap: int = 0
    batch: int = 2048
    epochs: float = 3.0
    rate: float = 2.5e-3
    warmup: float = 0.03
    decay: float = 0.4
    schedule: str = "linear"
    aux_weight: float = 1 / 32
    aux_features: int = 256
    aux_k: int = 32
    dead_after: int = 100_000
    sparsity: float = 1.0
    bandwidth: float = 0.4
    dtype: str = "float32"
    buffer: int = 1 << 18
    per_dimension: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "architecture": ARCHITECTURES,
            "schedule": ("linear", "cosine"),
            "dtype": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                got = getattr(self, name)
                raise InputError(f"Expected {name} among {', '.join(allowed)}, got '{got}'.")
        for name in ("n_features", "k", "batch", "aux_features", "aux_k", "dead_after", "buffer"):
            if getattr(self, name) < 1:
                raise InputError(f"Expected {name} of at least 1, got {getattr(self, name)}.")
        for name in ("epochs", "rate", "bandwidth"):
            if not getattr(self, name) > 0:
                raise InputError(f"Expected {name} above 0, got {getattr(self, name)}.")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"Expected {name} as a share of the steps, 0 to 1, got {getattr(self, name)}."
                )
        if self.aux_weight < 0 or self.sparsity < 0:
            raise InputError("Expected aux_weight and sparsity of at least 0.")
        if not self.k <= self.slots <= self.n_features:
            raise InputError(
                f"Expected k <= cap <= n_features, got {self.k}, {self.slots} and "
                f"{self.n_features}: a token cannot use more features than there are."
            )

    @property
    def slots(self) -> int:
        """Features per token at most."""
        if self.architecture == "top_k":
            return self.k
        usual = self.k * (4 if self.architecture == "jumprelu" else 2)
        return self.cap or min(usual, self.n_features)

    @property
    def compute(self) -> jnp.dtype:
        """dtype of the products."""
        return jnp.dtype(self.dtype)

    def phases(self, steps: int) -> tuple[int, int]:
        """Steps over which the learning rate rises, and over which it falls."""
        return max(1, round(self.warmup * steps)), round(self.decay * steps)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam; the rate rises linearly, stays, and falls to zero."""
        rise, fall = self.phases(steps)
        parts = [
            optax.linear_schedule(self.rate / rise, self.rate, rise),
            optax.constant_schedule(self.rate),
        ]
        ends = [rise]
        if fall:
            falling = {
                "linear": lambda: optax.linear_schedule(self.rate, 0.0, fall),
                "cosine": lambda: optax.cosine_decay_schedule(self.rate, fall),
            }
            parts.append(falling[self.schedule]())
            ends.append(max(rise, steps - fall))
        return optax.adam(optax.join_schedules(parts, ends))
