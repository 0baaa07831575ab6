"""Results as data frames: rows and columns as the results have them."""

import numpy as np
import pytest

from atlas_jax import InputError, to_pandas
from atlas_jax.evaluate.retrieval import RetrievalReport
from atlas_jax.identify import Hit, Sample


def test_a_report_has_a_row_for_each_method():
    values = {
        m: {"mrr": np.full(4, v), "mpp": np.full(4, v / 2)} for m, v in (("a", 1.0), ("b", 3.0))
    }
    report = RetrievalReport((1, 2, 3, 4), values, {"a": 0, "b": 1}, 4, "all", {}, 2, "x", 0)
    frame = to_pandas(report)
    assert list(frame["method"]) == ["a", "b"] and list(frame["mrr"]) == [1.0, 3.0]
    assert frame.to_dict("records") == report.rows()


def test_hits_have_a_row_for_each_text():
    samples = [Sample(4, "the sea", 2.0), Sample(9, "a ship", 1.0)]
    hits = [Hit("blocks.1.mlp.hook_post", 7, 0.5, [(3, 0.9)], samples)]
    frame = to_pandas(hits)
    assert list(frame.columns) == [
        *("site", "feature", "score", "concepts"),
        *("row", "text", "activation"),
    ]
    assert list(frame["text"]) == ["the sea", "a ship"] and list(frame["feature"]) == [7, 7]
    assert len(to_pandas([{"a": 1}, {"a": 2}])) == 2


@pytest.mark.parametrize("bad", ["text", 3, {"a": 1}, [1, 2]])
def test_what_has_no_rows_is_refused(bad):
    with pytest.raises(InputError, match="Expected"):
        to_pandas(bad)
