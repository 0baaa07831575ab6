"""Every row once, none cut, little padding, whatever the machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.activations.batches import bucket, plan_batches
from atlas_jax.activations.parts import Part, cut_into_parts, rows_of_a_part
from atlas_jax.activations.tokens import Tokens, tokenize
from atlas_jax.errors import InputError


@given(st.lists(st.integers(1, 9000), max_size=60), st.integers(1, 5000))
def test_every_row_is_planned_once(lengths, batch_tokens):
    seen = []
    for batch in plan_batches(lengths, batch_tokens):
        assert 0 < len(batch.rows) <= batch.size
        assert batch.size * batch.length <= max(batch_tokens, batch.length)
        longest = max(lengths[i] for i in batch.rows)
        assert longest <= batch.length == bucket(longest)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_long_rows_come_first():
    sizes = [batch.length for batch in plan_batches([5, 400, 60, 5, 130], 256)]
    assert sizes == sorted(sizes, reverse=True)


def sentences(n, seed=0):
    """Lengths as sentences have them: mean 21, standard deviation 11, up to about 90 tokens."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.gamma(4.0, 5.3, n), 4, 95).astype(int)


@pytest.mark.parametrize(
    "n, batch_tokens, shapes",
    [(900, 1024, 16), (2700, 1024, 19), (2700, 2048, 17), (16000, 1024, 22), (16000, 4096, 20)],
)
def test_few_shapes_and_at_most_a_tenth_of_padding_on_sentences(n, batch_tokens, shapes):
    lengths = sentences(n)
    rows = rows_of_a_part(lengths.mean(), batch_tokens, row_bytes=4 * 2048 * 3)
    plan = [
        batch
        for start in range(0, n, rows)
        for batch in plan_batches(lengths[start : start + rows], batch_tokens)
    ]
    positions = sum(batch.size * batch.length for batch in plan)
    assert 1 - lengths.sum() / positions <= 0.10
    assert len({(batch.size, batch.length) for batch in plan}) <= shapes


def test_a_part_is_some_thirty_batches_unless_its_rows_are_wide():
    assert rows_of_a_part(21, 1024, 4 * 2048) == 2048
    assert rows_of_a_part(30, 8192, 2 * 14336 * 5) == 4096  # 1 GB of five sites
    assert rows_of_a_part(30, 1024, 2**30) == 64


class Encoder:
    pad_id = 9

    def encode_batch(self, texts):
        return [list(range(int(text))) for text in texts]


def test_a_batch_of_tokens_has_every_text_and_repeats_the_first_to_fill_up():
    tokens = tokenize(Encoder(), ["3", "12", "2", "7"], 8, "")
    assert tokens.cut == 1 and tokens.lengths.tolist() == [3, 8, 2, 7]
    (batch,) = plan_batches(tokens.lengths[1:], 64)
    ids, mask = tokens.batch(batch, first=1, multiple=5, pad_id=9)
    assert ids.shape == (5, 8) and batch.rows.tolist() == [0, 2, 1]
    lengths = [8, 7, 2, 8, 8]
    np.testing.assert_array_equal(mask.sum(1), lengths)
    for row, length in zip(ids, lengths, strict=True):
        assert row.tolist() == [*range(length), *[9] * (8 - length)]


def test_a_text_of_one_token_is_named():
    with pytest.raises(InputError, match="Text 1 .'1'. has 1 token"):
        tokenize(Encoder(), ["3", "1"], 8, "")


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 60), st.booleans())
def test_parts_put_every_row_in_its_place(lengths, rows_per_part, by_token):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(np.arange(offsets[-1], dtype=np.int32), offsets, 0)
    parts = cut_into_parts(rows_per_part, tokens, by_token)
    rows = int(offsets[-1]) if by_token else len(lengths)
    assert [part.start for part in parts] == list(range(0, rows, rows_per_part))
    found = []
    for part in parts:
        assert isinstance(part, Part) and part.last > part.first
        into = np.full((part.stop - part.start, 1), -1)
        for batch in part.plan(tokens, 64):
            ids, _ = tokens.batch(batch, part.first, 1, pad_id=-7)
            # Each token's activation is its id; a text's pooled one is its first id.
            part.put(into, batch, ids[:, :, None] if by_token else ids[:, :1])
        found.append(into[:, 0])
    expected = np.arange(rows) if by_token else offsets[:-1]
    np.testing.assert_array_equal(np.concatenate(found), expected)
