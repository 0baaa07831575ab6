"""Washouts compared: a verbalizer whose quirk at each washout is known."""

import numpy as np
import pytest

from atlas_jax.errors import InputError
from atlas_jax.verbalize import BARE, Background, Washout
from atlas_jax.verbalize.lift_page import render_lift
from atlas_jax.verbalize.verbalizer import Explanation, Verbalizer
from atlas_jax.verbalize.washout_comparison import compare_washouts, usual_washouts

N = 12
NAMES = [f"w{i}" for i in range(N)]
RNG = np.random.default_rng(0)
BACKGROUND = Background((3 + RNG.standard_normal((40, N))).astype(np.float32), {})


class Words:
    """Bags of words."""

    def embed(self, texts):
        known = {word: i for i, word in enumerate([*NAMES, "quirk"])}
        rows = np.zeros((len(texts), len(known) + 1), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row[known.get(word, -1)] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class Speaker(Verbalizer):
    """Says the right word, with a quirk where the washout is bare; at 90 degrees one for all."""

    def __init__(self):
        self.background = BACKGROUND

    def explain_all(self, directions, washout=BARE, *, samples=1, temperature=0.0, seed=0):
        texts = []
        for row in directions:
            word = NAMES[int(np.argmax(row))]
            if len(directions) == 1 and washout is BARE:
                word = "quirk"  # the background itself
            elif washout.angle is None:
                word = f"{word} quirk"
            elif washout.angle == 90:
                word = NAMES[0]
            texts.append(word)
        return [[Explanation(t, t, True, 0.5)] * samples for t in texts]


def compare(washouts, samples=2, directions=None):
    directions = np.eye(N) if directions is None else directions
    native = Words().embed(NAMES)[None]
    return compare_washouts(
        np.eye(N), directions, native, Speaker(), Words(), washouts, {"samples": samples},
        draws=300,
    )  # fmt: skip


def test_a_quirk_taken_away_and_a_meaning_lost():
    near = np.eye(N) + 0.8  # every feature has a near neighbour
    found = compare({"bare": BARE, "mixed": Washout(angle=30), "lost": Washout(angle=90)}, 2, near)
    assert "against" not in found["bare"]
    mixed, lost = found["mixed"]["against"], found["lost"]["against"]
    assert found["mixed"]["lift_spec"]["mean"] == pytest.approx(1)
    assert found["bare"]["lift_spec"]["mean"] == pytest.approx(1 / np.sqrt(2))
    assert found["mixed"]["leakage"] == 0 < found["bare"]["leakage"]
    assert mixed["quirks_taken"] is True and mixed["lift_kept"] and mixed["nuance_kept"]
    assert mixed["lift_difference"] == pytest.approx(1 - 1 / np.sqrt(2))
    assert mixed["p"] <= mixed["p_holm"] < 0.05 < lost["p_holm"]
    assert lost["quirks_taken"] is False and not lost["lift_kept"]
    assert found["lost"]["lift_spec"]["mean"] == pytest.approx(0, abs=1e-9)


def test_what_is_not_known_is_not_decided():
    one = compare({"bare": BARE, "mixed": Washout(angle=30)}, samples=1)["mixed"]
    assert np.isnan(one["stability"]) and one["against"]["quirks_taken"] is None
    assert "nuance_kept" not in one["against"]  # no feature has a neighbour
    with pytest.raises(InputError, match="at least two washouts"):
        compare({"bare": BARE})


def test_the_usual_washouts_cover_the_sweep():
    found = usual_washouts(BACKGROUND)
    angles = [w.angle for w in found.values()]
    assert next(iter(found.values())) == BARE and angles[1] == BACKGROUND.angle / 2
    assert angles[2:8] == ["auto", 25, 45, 60, 75, 90]
    assert [w.omega for w in found.values()][-2:] == [1.0, 0.5]
    assert list(found.values())[-1].members == 8


def test_the_page_shows_them_beside_each_other():
    compared = compare({"bare": BARE, "mixed": Washout(angle=30)})
    estimate = {"mean": 0.1, "low": 0.0, "high": 0.2}
    figures = {
        "lift_spec": estimate, "lift_rand": {}, "lift_dc": estimate, "own_cosine": 0.5,
        "normalised": None, "top1": 0.5, "mrr": 0.5, "chance": 0.1, "nulls": {}, "quirks": {},
    }  # fmt: skip
    page = render_lift(
        {
            "figures": figures,
            "bridge": {},
            "features": [],
            "washouts": compared,
            "plan": {"margin": 0.02},
        }
    )
    assert "Washouts compared" in page and "mixed" in page and "0.02" in page
    empty = render_lift({"figures": figures, "bridge": {}, "features": [], "plan": {}})
    assert "Washouts compared" not in empty
