"""How a verbalizer is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from atlas_jax.errors import InputError
from atlas_jax.verbalize.training.examples import Drawing


@dataclass(frozen=True)
class TrainingPlan:
    """How a verbalizer is trained.

    Attributes:
        drawing: where states are read, and how many words are said.
        mode: `replace_residual` at the output of the site's own layer, or `replace_embedding`.
        rank: of the changes.
        steps: of Adam, at a rate that rises over the first twentieth and falls to zero.
        batch: examples of a step.
        rate: the largest learning rate.
        stretch: bounds of what a state's angle to the mean state is multiplied by.
        longest: tokens of an answer, at most.
        seed: of everything that is drawn.
    """

    drawing: Drawing = field(default_factory=Drawing)
    mode: str = "replace_residual"
    rank: int = 16
    steps: int = 600
    batch: int = 32
    rate: float = 1e-3
    stretch: tuple[float, float] = (0.8, 1.3)
    longest: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("replace_residual", "replace_embedding"):
            raise InputError(
                f"Expected mode replace_residual or replace_embedding, got '{self.mode}'."
            )
        if min(self.rank, self.steps, self.batch) < 1 or self.rate <= 0:
            raise InputError(
                "Expected rank, steps and batch of at least 1 and a rate above 0, got "
                f"{self.rank}, {self.steps}, {self.batch} and {self.rate}."
            )
