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


def test_the_tables_of_what_is_sent_come_from_the_results(scale):
    import communication

    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert communication.page(text) == text, "run: python benchmarks/communication.py --write"
    for name in ("communication", "collectives"):
        del sys.modules[name]


def test_the_section_on_two_processes(scale, monkeypatch):
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    if not (ROOT / "benchmarks" / "results" / "scaling.json").is_file():
        assert scale.scaling({}) == "" and "One process and two" not in text
    import scaling

    seconds = {"one": [4.0, 6.0], "beside": [5.0, 5.0], "strong": [2.5, 4.0], "weak": [4.0, 8.0]}
    found = scaling.efficiencies(seconds)
    assert found["strong"] == {"median": 0.7692, "least": 0.75, "most": 0.8}  # half of 5 / 3.25
    assert found["weak"] == {"median": 0.8333, "least": 0.75, "most": 1.0}
    sides = {name: {"seconds": s, "median_s": sum(s) / 2} for name, s in seconds.items()}
    tasks = [{"task": "sums", "rows": {"one": 1280}, "sides": sides, "efficiency": found}]
    shape = {"subject": 512, "atlas": 1024, "model": scaling.MODEL}
    said = scale.scaling({"machine": {"processor": "X"}, "shape": shape, "tasks": tasks})
    row = "| sums | 1,280 | 5.00 s | 3.25 s | 77% (75% to 80%) | 6.00 s | 83% (75% to 100%) | 100% "
    assert row in said
    for name in ("scaling", "measure"):
        del sys.modules[name]


HLO = """
%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %ar = f32[8,4]{1,0} all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add.promoted
  %ag = (f32[2,4], f32[8,4]) all-gather-start(%b), replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%t), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %rs = f64[2]{0} reduce-scatter(%v), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %one = f32[8]{0} all-reduce(%u), replica_groups={{0},{1}}, to_apply=%add
}
"""


def test_collectives_are_read_from_a_program(scale):
    from collectives import collectives

    found = {c.kind: c for c in collectives(HLO, 8)}
    assert set(found) == {"all-reduce", "all-gather", "reduce-scatter"}
    reduce = found["all-reduce"]  # bfloat16 that the CPU adds as float32, in a loop
    assert (reduce.bytes, reduce.group, reduce.times, reduce.sent) == (64, 4, 5, 96.0)
    gather = found["all-gather"]
    assert (gather.bytes, gather.group, gather.times, gather.sent) == (128, 4, 5, 96.0)
    scatter = found["reduce-scatter"]
    assert (scatter.bytes, scatter.group, scatter.sent) == (16, 4, 48)
    with pytest.raises(ValueError, match="unknown length"):
        collectives(HLO.replace("known_trip_count", "unknown"), 8)
    del sys.modules["collectives"]
