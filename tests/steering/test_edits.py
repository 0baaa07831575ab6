"""Edits out of scores and queries."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.query import Query
from atlas_jax.steering import steer, steer_query
from atlas_jax.translate import Translation

RNG = np.random.default_rng(0)
MAPS = {
    site: Translation("covariance", RNG.standard_normal((4, 3)).astype(np.float32))
    for site in ("blocks.0.mlp.hook_post", "blocks.2.hook_resid_post")
}


def test_an_edit_holds_scores_and_strength():
    edit = steer("blocks.1.mlp.hook_post", jnp.arange(4.0), 3)
    assert edit.strength == 3.0 and edit.site == "blocks.1.mlp.hook_post"
    assert edit.mode == "steer"
    np.testing.assert_array_equal(edit.vector, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("scores", "strength"),
    [(np.ones((2, 2)), 1.0), (np.array([np.nan, 1]), 1.0), (np.ones(2), float("inf"))],
)
def test_bad_input(scores, strength):
    with pytest.raises(InputError, match="finite"):
        steer("blocks.1.mlp.hook_post", scores.astype(np.float32), strength)
    with pytest.raises(InputError, match="steer, add, ablate, clamp, got 'push'"):
        steer("blocks.1.mlp.hook_post", np.ones(2), 1.0, "push")


def test_a_saved_query_steers_at_every_site(tmp_path):
    vector = np.array([0, 2, -1], np.float32)
    query = Query.load(Query(vector, "q", (1, 2), (2.0, -1.0)).save(tmp_path / "q.json"))
    edits = steer_query(MAPS, query, 2.0, "add")
    assert [edit.site for edit in edits] == list(MAPS) and {e.mode for e in edits} == {"add"}
    for edit, translation in zip(edits, MAPS.values(), strict=True):
        rows = translation.matrix.astype(np.float64)
        expected = rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
        np.testing.assert_allclose(edit.vector, expected, rtol=1e-5)
    mine = dict(zip(MAPS, (1.5, -3.0), strict=True))
    assert [e.strength for e in steer_query(MAPS, vector, mine)] == [1.5, -3.0]
    with pytest.raises(InputError, match=r"none for blocks\.2\.hook_resid_post"):
        steer_query(MAPS, vector, {"blocks.0.mlp.hook_post": 1.0})
