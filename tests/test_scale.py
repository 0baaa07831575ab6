"""The page on scale says what the results say, and marks what it assumes."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale

    yield scale
    del sys.modules["scale"]


def test_the_tables_come_from_the_results(scale):
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert scale.page(text) == text, "run: python benchmarks/scale.py --write"


def test_every_factor_is_measured_assumed_or_the_papers(scale):
    for factor in scale.factors().values():
        kind = re.match(r"measured: (\w+\.json)|assumed|the paper", factor.source)
        assert kind, factor
        if kind[1]:
            assert (ROOT / "benchmarks" / "results" / kind[1]).is_file()


def test_the_arithmetic_of_a_token(scale):
    # Llama 3.1 8B has 6.98e9 weights in its 32 layers, two FLOPs each; of 31 layers 13.5e9.
    assert scale.LLAMA.flops(31, 0) == pytest.approx(2 * 31 * 218.1e6, rel=1e-3)
    one, three, atlas = scale.projection(scale.factors())
    assert three["forward"] == pytest.approx(3 * one["forward"])
    assert one["bytes"] == 1_000_000 * 14_336 * 5 * 2
    assert atlas["bytes"] < 0.2 * 1_000_000 * 16_384 * 2
