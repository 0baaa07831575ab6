"""The soak's judgement of made-up series, and the time left of a bar."""

import sys
from pathlib import Path

import numpy as np
import pytest

import atlas_jax as aj
from atlas_jax import progress

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import soak


def samples(n=600, **rates):
    """Ten minutes of a process that breathes; `rates` are what it gains a minute."""
    rng = np.random.default_rng(0)
    made = []
    for second in range(n):
        one = {"rss_mb": 900 + 4 * rng.standard_normal(), "descriptors": 6 + second % 3}
        one |= {"threads": 2 + second % 2, "arrays": 31 + second % 7, "compilations": 40}
        made.append({"seconds": float(second)} | one)
        for name, rate in rates.items():
            made[-1][name] += rate * second / 60
    return made


def test_a_steady_process_passes():
    found = soak.judge(samples())
    assert all(what["passed"] for what in found.values())
    assert set(found) == {"rss_mb", "descriptors", "threads", "arrays", "compilations"}


@pytest.mark.parametrize(
    ("name", "rate"),
    [("rss_mb", 2.0), ("descriptors", 1), ("threads", 1), ("arrays", 3), ("compilations", 1)],
)
def test_each_leak_is_found_and_named(name, rate):
    found = soak.judge(samples(**{name: rate}))
    assert [key for key, what in found.items() if not what["passed"]] == [name]


def test_growth_of_the_first_third_is_warm_up():
    made = samples()
    for sample in made[:200]:
        sample["rss_mb"] -= 200 - sample["seconds"]
    assert soak.judge(made)["rss_mb"]["passed"]
    with pytest.raises(ValueError, match="six samples"):
        soak.judge(made[:7])


def test_noise_that_hides_a_slope_does_not_pass():
    made = samples(60)
    for i, sample in enumerate(made):
        sample["rss_mb"] += 30 * np.sin(i / 5)
    found = soak.judge(made)["rss_mb"]
    assert found["per_minute"][2] > soak.MOST_MB_A_MINUTE and not found["passed"]


def test_the_slope_and_its_interval():
    rng = np.random.default_rng(1)
    seconds = np.arange(1200.0)
    inside = 0
    for _ in range(200):
        middle, low, high = soak.slope(seconds, 5 + 3 * seconds / 60 + rng.standard_normal(1200))
        inside += low < 3 < high
        assert abs(middle - 3) < 0.1
    assert 180 <= inside <= 198  # of a 95 % interval


@pytest.mark.parametrize(("shown", "passes"), [(100, True), (119, True), (79, False), (121, False)])
def test_a_wrong_time_left_is_found(shown, passes):
    stages = [{"stage": "a", "shown": shown, "took": 11, "left": 100}]
    (found,) = soak.judge_times([*stages, {"stage": "short", "shown": 1, "took": 1, "left": 9}])
    assert found["passed"] == passes
    result = {"judged": {"rounds": {"rss_mb": {"passed": True}}}, "time_left": [found]}
    assert soak.passed(result) == passes


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_the_time_left_of_a_bar_is_that_of_its_rate(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    bar = progress.Bar("reading", 1000)
    assert bar.remaining is None
    bar.advance(400)  # what an earlier run did: it took no time
    assert bar.remaining is None
    with bar.apart():
        clock.now += 50.0  # compiled once
    clock.now += 10.0
    bar.advance(60)
    assert bar.remaining == pytest.approx(540 / 6)
    clock.now += 5.0
    assert bar.remaining == pytest.approx(540 / 6 - 5)
    assert progress.Bar("a pulse").remaining is None


def test_a_small_soak(tmp_path, monkeypatch, tiny_llama):
    from atlas_jax.activations import recorder
    from atlas_jax.pipeline.smoke import _atlas
    from atlas_jax.translate import accumulate

    for module in (recorder, accumulate):
        monkeypatch.setattr(module, "Bar", module.Bar)  # put back at the end
    monkeypatch.setattr(soak, "METHODS", ("procrustes",))
    _atlas(tmp_path / "atlas", tiny_llama)
    model, atlas = aj.load_model(tiny_llama), aj.load_atlas(tmp_path / "atlas")

    def draw(n, seed):
        return aj.Texts([f"{seed} rivers and {i} streets run to the sea" for i in range(n)])

    how = {"every": 0.01, "tokens": 8, "corpora": 1}
    result = soak.soak(model, atlas, draw, 12, 0.1, tmp_path, **how)
    assert result["rounds"] >= 1 and set(result["judged"]) == {"rounds", "capture"}
    assert result["judged"]["rounds"]["descriptors"]["passed"]
    assert result["judged"]["rounds"]["arrays"]["passed"]
