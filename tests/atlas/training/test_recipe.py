"""Recipes: learning rates step by step, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.atlas.training.recipe import Recipe
from atlas_jax.errors import InputError


def rates(recipe, steps):
    """Adam moves a parameter of constant gradient by the rate itself."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        adam = recipe.optimizer(steps)
        state, found = adam.init(jnp.zeros(())), []
        for _ in range(steps):
            change, state = adam.update(jnp.ones(()), state)
            found.append(-float(change))
    return np.array(found)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_stays_and_falls(schedule):
    got = rates(Recipe(rate=0.1, warmup=0.2, decay=0.5, schedule=schedule), 50)
    t = np.arange(25) / 25
    fall = {"linear": 1 - t, "cosine": (1 + np.cos(np.pi * t)) / 2}[schedule]
    wanted = 0.1 * np.concatenate([np.linspace(0.1, 1, 11)[:-1], np.ones(15), fall])
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-5)


def test_without_decay_the_rate_stays():
    np.testing.assert_allclose(rates(Recipe(rate=0.1, warmup=0.0, decay=0.0), 20), 0.1, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "gated"}, "architecture among batch_top_k, top_k, jumprelu"),
        ({"dtype": "float16"}, "dtype among float32, bfloat16"),
        ({"schedule": "step"}, "schedule among linear, cosine"),
        ({"k": 0}, "k of at least 1"),
        ({"epochs": 0.0}, "epochs above 0"),
        ({"rate": float("nan")}, "rate above 0"),
        ({"warmup": 1.5}, "share of the steps"),
        ({"k": 40, "n_features": 32}, "k <= cap <= n_features"),
        ({"k": 8, "cap": 4}, "k <= cap <= n_features"),
        ({"aux_weight": -1.0}, "at least 0"),
    ],
)
def test_what_is_wrong_is_one_line(fields, message):
    with pytest.raises(InputError, match=message) as caught:
        Recipe(**fields)
    assert "\n" not in str(caught.value)


def test_slots():
    assert [Recipe(architecture=a, k=8).slots for a in ("top_k", "batch_top_k", "jumprelu")] == [
        8,
        16,
        32,
    ]
    assert Recipe(k=8, cap=11).slots == 11 and Recipe(k=8, n_features=10).slots == 10
