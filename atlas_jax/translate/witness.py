"""Some rows of fitted translations, held against the activations they were fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int

from atlas_jax.progress import track
from atlas_jax.translate.rows import Rows
from atlas_jax.translate.translation import Translation

_ROWS = 1024
_TINY = np.finfo(np.float64).tiny

TOLERANCE = 1e-4
"""What rounding to float32 in the sums and in T may leave."""


def errors_of_rows(
    translations: Mapping[str, Translation],
    subject: Rows,
    atlas: Rows,
    features: Int[np.ndarray, " m"],
) -> dict[str, float]:
    """How far some subject features' rows are from what their method defines, by name.

    One pass, float64 NumPy, and no code of the fit. With x_i the activations of feature i, Y the
    atlas's, t_i the row, and a hat on rows of unit length:

        covariance, correlation, semantic_lens    largest |t_i - the definition| / largest entry
        linear_regression, ridge                  ||Y'(x_i - Y t_i) - alpha t_i|| / (||Y|| ||x_i||)
        procrustes                                how far M T' is from symmetric and positive, with
                                                  M = X^' Y^, and T from a contraction
        procrustes_exact                          how far T is from a contraction

    Args:
        translations: of one site, by method.
        subject: (N, d_s).
        atlas: (N, d_c), the same samples.
        features: m indices of rows.
    """
    matrices = {m: t.matrix[features].astype(np.float64) for m, t in translations.items()}
    n, m, width = subject.shape[0], len(features), atlas.shape[1]
    chosen = np.empty((n, m))
    cross, unit_cross = np.zeros((m, width)), np.zeros((m, width))
    total, squares, unit_total = np.zeros(width), np.zeros(width), np.zeros(width)
    unit_chosen = np.zeros(m)
    fitted = {name: np.zeros((m, width)) for name in matrices if name in _REGRESSIONS}
    starts = range(0, n, _ROWS)
    for start in track(starts, "checking translations", len(starts)):
        part = slice(start, start + _ROWS)
        x, y = (np.asarray(side[part], np.float64) for side in (subject, atlas))
        own = chosen[part] = x[:, features]
        x_norms, y_norms = (np.linalg.norm(side, axis=1)[:, None] for side in (x, y))
        unit_own = own / np.where(x_norms > 0, x_norms, 1)
        unit_y = y / np.where(y_norms > 0, y_norms, 1)
        cross += own.T @ y
        unit_cross += unit_own.T @ unit_y
        total += y.sum(0)
        squares += np.square(y).sum(0)
        unit_total += unit_y.sum(0)
        unit_chosen += unit_own.sum(0)
        for name, sums in fitted.items():
            sums += (y @ matrices[name].T).T @ y
    centred = cross - np.outer(chosen.sum(0), total / n)
    errors: dict[str, float] = {}
    for name, rows in matrices.items():
        options = translations[name].meta.get("options", {})
        if name == "covariance":
            errors[name] = _difference(rows, centred / n)
        elif name == "correlation":
            spread = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0))
            scale = _live(chosen.std(0), chosen.mean(0))[:, None] * _live(spread, total / n)
            errors[name] = _difference(rows, centred / n * scale)
        elif name == "semantic_lens":
            expected = _top_means(chosen, atlas, int(options["k"]))
            errors[name] = _difference(rows, expected)
        elif name in _REGRESSIONS:
            alpha = np.asarray(options.get("alpha", 0.0), np.float64)
            alpha = alpha[features, None] if alpha.ndim else alpha
            gradient = np.linalg.norm(cross - fitted[name] - alpha * rows, axis=1)
            size = np.sqrt(squares.sum()) * np.linalg.norm(chosen, axis=0)
            errors[name] = float(np.max(gradient / np.maximum(size, _TINY)))
        elif name in _ORTHOGONAL:
            unit = unit_cross
            if options.get("center"):
                unit = unit_cross - np.outer(unit_chosen, unit_total / n)
            errors[name] = _ORTHOGONAL[name](rows, unit)
    return errors


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), _TINY))


def _live(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """1 / deviation, 0 where a feature is constant as far as float32 can tell."""
    live = deviation > 1e-6 * np.abs(mean)
    return np.where(live, 1 / np.where(live, deviation, 1), 0)


def _top_means(
    chosen: Float64[np.ndarray, "n m"], atlas: Rows, k: int
) -> Float64[np.ndarray, "m dc"]:
    """Mean atlas row of the k samples where each feature is largest, lower indices first."""
    result = np.zeros((chosen.shape[1], atlas.shape[1]))
    for i, values in enumerate(chosen.T):
        top = np.argsort(-values, kind="stable")[:k]
        if values[top[0]] > values.min():
            result[i] = np.mean([np.asarray(atlas[s : s + 1], np.float64)[0] for s in top], axis=0)
    return result


def _beyond_contraction(rows: np.ndarray) -> float:
    return float(max(np.linalg.norm(rows, 2) - 1, 0.0))


def _polar_error(rows: np.ndarray, unit_cross: np.ndarray) -> float:
    product = unit_cross @ rows.T
    values = np.linalg.eigvalsh((product + product.T) / 2)
    negative = max(-values.min(), 0.0) / max(np.abs(product).max(), _TINY)
    return max(_difference(product, product.T), float(negative), _beyond_contraction(rows))


_REGRESSIONS = ("linear_regression", "ridge")
_ORTHOGONAL: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "procrustes": _polar_error,
    "procrustes_exact": lambda rows, unit_cross: _beyond_contraction(rows),
}
