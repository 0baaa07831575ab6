"""Counts by length, against NumPy on the lengths themselves."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.corpus.statistics import Lengths
from atlas_jax.corpus.tally import Tally, percentile

LENGTHS = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)
QUARTERS = st.one_of(st.floats(0, 100), st.sampled_from([0, 5, 25, 50, 95, 100]))


@given(LENGTHS, QUARTERS)
def test_a_percentile_is_numpys_to_the_last_bit(lengths, q):
    assert percentile(Counter(lengths), q) == np.percentile(lengths, q)


SENTENCES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans()))


@given(SENTENCES, SENTENCES, st.tuples(st.integers(0, 5), st.integers(5, 9)))
def test_counts_of_merged_tallies_that_went_through_a_file(first, second, bounds):
    tallies = [Tally(), Tally()]
    for tally, sentences in zip(tallies, (first, second), strict=True):
        for sentence in sentences:
            tally.documents[sentence[0]] += 1
            tally.add(*sentence)
    whole = Tally()
    for tally in tallies:
        whole.merge(Tally.loads(tally.dumps()))
    low, high = bounds
    both = first + second
    inside = [s for s in both if low <= s[1] <= high]
    assert whole.counts(bounds) == {
        "documents": Counter(s for s, _, _ in both),
        "sentences": Counter(s for s, _, _ in both),
        "length": Counter(s for s, _, _ in inside),
        "letters": Counter(s for s, _, letters in inside if letters),
    }


def of(lengths: list[int]) -> Lengths:
    return Lengths.of(np.array(lengths, np.int64))


@given(LENGTHS, st.integers(0, 60))
def test_mean_and_sd_are_numpys(lengths, cut):
    found = of(lengths[:cut]) + of(lengths[cut:])
    assert found == of(lengths)
    expected = np.array(lengths, np.float64)
    np.testing.assert_allclose([found.mean, found.sd], [expected.mean(), expected.std()], rtol=1e-9)
    assert (found.low, found.high) == (min(lengths), max(lengths))


def test_no_lengths():
    assert of([]).to_dict() is None
    assert of([]) + of([3]) == of([3])
