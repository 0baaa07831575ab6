"""Every row once, none cut, little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.activations.batches import bucket, plan_batches


@given(st.lists(st.integers(1, 9000), max_size=60), st.integers(1, 5000), st.integers(1, 8))
def test_every_row_is_planned_once(lengths, batch_tokens, multiple):
    seen = []
    for batch in plan_batches(lengths, batch_tokens, multiple):
        assert batch.size % multiple == 0 and 0 < len(batch.rows) <= batch.size
        assert batch.size * batch.length <= max(batch_tokens, multiple * batch.length)
        longest = max(lengths[i] for i in batch.rows)
        assert longest <= batch.length == bucket(longest)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_long_rows_come_first():
    sizes = [batch.length for batch in plan_batches([5, 400, 60, 5, 130], 256)]
    assert sizes == sorted(sizes, reverse=True)


def test_few_shapes_and_little_padding():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.2, 0.6, 1024), 4, 120).astype(int)  # sentences
    plan = list(plan_batches(lengths.tolist(), 1024))
    assert len({(batch.size, batch.length) for batch in plan}) <= 14
    assert sum(batch.size * batch.length for batch in plan) < 1.2 * lengths.sum()
