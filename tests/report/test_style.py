"""Colours of the report: read by weak eyes, told apart by the colour-blind, in both themes."""

from itertools import combinations

import numpy as np
import pytest

from atlas_jax.report.style import DARK, HEAT, LIGHT, STYLE

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
BLIND = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def linear(colour):
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2, relative luminance."""
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (one, other))
    return high / low


def lab(colour):
    """CIE L*a*b* of linear RGB, white D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = np.clip(to_xyz @ colour, 0, None) / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(theme):
    for ground in ("page", "card"):
        for name in ("ink", "soft", "link", "c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(rgb(theme[name]), rgb(theme[ground])) >= 4.5
        hottest = HEAT * rgb(theme["hot"]) + (1 - HEAT) * rgb(theme[ground])
        assert contrast(rgb(theme["ink"]), hottest) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", BLIND)
def test_methods_are_told_apart(theme, kind):
    seen = [lab(np.clip(BLIND[kind] @ linear(rgb(theme[f"c{i}"])), 0, 1)) for i in range(6)]
    apart = [np.linalg.norm(a - b) for a, b in combinations(seen, 2)]
    assert min(apart) > 10  # some five times what the eye just notices


def test_both_themes_hold_the_same_colours_and_the_page_all_of_them():
    assert LIGHT.keys() == DARK.keys()
    # A plot's colours are found again by their value.
    assert len(set(LIGHT.values())) == len(LIGHT)
    for name in LIGHT:
        assert f"--{name}: light-dark({LIGHT[name]}, {DARK[name]});" in STYLE
