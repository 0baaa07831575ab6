"""The shuffling buffer: batches of tokens in random order, from a recording or from a model.

Each epoch takes the contexts in a random order of its own and cuts them into windows of about
`buffer` tokens; a window is read (from disk, or by running the model) and its tokens are shuffled.
What a step sees is thus a function of the seed and the step alone, and a training resumes by
reading one window. Attention sinks are replaced by other tokens of their window, so that the number
of batches does not depend on the data.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.atlas.sinks import content_rows
from atlas_jax.atlas.token_activations import TokenSource
from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.errors import InputError


class Windows:
    """The batches of a training.

    Args:
        source: of activations.
        contexts: how many contexts to train on, from the first.
        recipe: batch, buffer and seed.

    Attributes:
        per_epoch: steps of an epoch.
        limit: norm of an attention sink; to be set once it is known.

    Raises:
        InputError: fewer tokens than one batch.
    """

    def __init__(self, source: TokenSource, contexts: int, recipe: Recipe) -> None:
        self.source, self.contexts, self.recipe = source, contexts, recipe
        self.limit = float("inf")
        self._rows = source.tokens.shape[1] - 1
        if contexts * self._rows < recipe.batch:
            raise InputError(
                f"Expected at least {recipe.batch} training activations (one batch), got "
                f"{contexts * self._rows}: record more, hold out fewer contexts, or use a smaller "
                "batch."
            )
        parts = max(1, round(contexts * self._rows / max(recipe.buffer, recipe.batch)))
        self._sizes = np.array([len(part) for part in np.array_split(np.arange(contexts), parts)])
        steps = self._sizes * self._rows // recipe.batch
        self._ends = np.cumsum(steps)
        self.per_epoch = int(self._ends[-1])
        self._held: tuple[tuple[int, int], np.ndarray] | None = None
        self._first: np.ndarray | None = None

    def first(self) -> Float[np.ndarray, "rows d"]:
        """The first window's activations as they are; kept until training has begun."""
        self._first = self.raw(0, 0)
        return self._first

    def raw(self, epoch: int, window: int) -> Float[np.ndarray, "rows d"]:
        """A window's activations as they are, sinks included."""
        return self.source.read(np.sort(self._contexts(epoch, window)))

    def batch(self, step: int) -> Float[np.ndarray, "batch d"]:
        """The raw activations of a step."""
        epoch, place = divmod(step, self.per_epoch)
        window = int(np.searchsorted(self._ends, place, "right"))
        place -= int(self._ends[window - 1]) if window else 0
        if self._held is None or self._held[0] != (epoch, window):
            self._held = None  # the old window goes before the new one comes
            self._held = (epoch, window), self._shuffled(epoch, window)
        size = self.recipe.batch
        return self._held[1][place * size : (place + 1) * size]

    def _shuffled(self, epoch: int, window: int) -> Float[np.ndarray, "rows d"]:
        first = self._first if (epoch, window) == (0, 0) else None
        rows = self.raw(epoch, window) if first is None else first
        self._first = None
        content = content_rows(rows, self.limit)
        if not len(content):
            raise InputError("Expected content among the activations, found attention sinks only.")
        random = np.random.default_rng((self.recipe.seed, 2, epoch, window))
        more = random.choice(content, len(rows) - len(content))
        return rows[random.permutation(np.concatenate([content, more]))]

    def _contexts(self, epoch: int, window: int) -> Int[np.ndarray, " m"]:
        order = np.random.default_rng((self.recipe.seed, 1, epoch)).permutation(self.contexts)
        start = int(self._sizes[:window].sum())
        return order[start : start + self._sizes[window]]
