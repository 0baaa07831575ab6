"""Edits out of scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.steering import random_scores, steer


def test_an_edit_holds_scores_and_strength():
    edit = steer("blocks.1.mlp.hook_post", jnp.arange(4.0), 3)
    assert edit.strength == 3.0 and edit.site == "blocks.1.mlp.hook_post"
    np.testing.assert_array_equal(edit.vector, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("scores", "strength"),
    [(np.ones((2, 2)), 1.0), (np.array([np.nan, 1]), 1.0), (np.ones(2), float("inf"))],
)
def test_bad_input(scores, strength):
    with pytest.raises(InputError, match="finite"):
        steer("blocks.1.mlp.hook_post", scores.astype(np.float32), strength)


def test_random_directions_have_the_norm_and_the_seed():
    a, b = random_scores(50, 2.5, seed=1), random_scores(50, 2.5, seed=1)
    np.testing.assert_array_equal(a, b)
    assert np.linalg.norm(a) == pytest.approx(2.5) and (a != random_scores(50, 2.5, 2)).any()
