"""The penalty of ridge chosen from moments: GCV and K-fold, for a whole path at once.

C = A_c' A_c = Q diag(w) Q', V = A_s' A_c Q, d = 1 / (w + alpha). One eigendecomposition serves
every alpha; the residuals come out of V, w and the sums of squares of A_s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float64

from atlas_jax.errors import InputError
from atlas_jax.translate.linear import Gram

(_symm,) = scipy.linalg.get_blas_funcs(("symm",), dtype="f8")


@dataclass(frozen=True)
class Fold:
    """The moments of one fold.

    Attributes:
        n: its number of rows.
        gram: A_c' A_c, (d_c, d_c), of which the upper triangle is read.
        cross: A_c' A_s, (d_c, d_s).
        squares: sum of A_s squared, (d_s,).
    """

    n: int
    gram: Float64[np.ndarray, "dc dc"]
    cross: Float64[np.ndarray, "dc ds"]
    squares: Float64[np.ndarray, " ds"]


def gcv_errors(
    gram: Gram,
    cross: Float64[np.ndarray, "dc ds"],
    squares: Float64[np.ndarray, " ds"],
    n: int,
    alphas: Sequence[float],
    intercept: bool = False,
) -> Float64[np.ndarray, "a ds"]:
    """Generalised cross-validation: (RSS / n) / (1 - df / n)^2, by alpha and subject feature.

    RSS = a'a - sum (2 d - d^2 w) v^2,  df = sum w d, and 1 more with an intercept, which is not
    penalised: the moments are then those of centred rows.

    Source: Golub, Heath and Wahba (1979).
    """
    check_alphas(alphas)
    values, vectors = gram.spectrum
    w = values[gram.kept]
    v2 = (vectors[:, gram.kept].T @ cross[gram.live]) ** 2
    d = 1.0 / (w[None, :] + np.asarray(alphas)[:, None])
    rss = np.maximum(squares[None, :] - (2 * d - d * d * w[None, :]) @ v2, 0.0)
    spare = 1.0 - (d @ w + intercept) / n
    return rss / n / np.maximum(spare, np.finfo(float).tiny)[:, None] ** 2


def k_fold_errors(
    folds: Sequence[Fold], alphas: Sequence[float], per_target: bool = False
) -> Float64[np.ndarray, "a t"]:
    """Held-out mean squared error by alpha, averaged over the folds: `held_out_errors` of each.

    Args:
        folds: at least two.
        alphas: penalties.
        per_target: one column for each subject feature; else one for their mean.
    """
    check_alphas(alphas)
    if len(folds) < 2:
        raise InputError(f"Expected at least two folds, got {len(folds)}.")
    gram = sum(fold.gram for fold in folds)
    cross = sum(fold.cross for fold in folds)
    width = len(folds[0].squares) if per_target else 1
    errors = np.zeros((len(alphas), width))
    for fold in folds:
        rest, right = Gram(gram - fold.gram), cross - fold.cross
        errors += held_out_errors(rest, right, fold, alphas, per_target) / len(folds)
    return errors


def held_out_errors(
    gram: Gram,
    cross: Float64[np.ndarray, "dc ds"],
    held: Fold,
    alphas: Sequence[float],
    per_target: bool = False,
) -> Float64[np.ndarray, "a t"]:
    """Mean squared error on rows that were not fitted, by alpha, from the moments of both.

    With C = Q diag(w) Q', V = A_s' A_c Q and d = 1 / (w + alpha) of the fitted rows, and C_f, B_f
    and a of those held out:
    ||A_s - A_c T'||^2 = a'a - 2 d.(V o B_f Q) + d' ((Q' C_f Q) o (V' V)) d

    Args:
        gram: of the fitted rows.
        cross: A_c' A_s of the fitted rows.
        held: the rows held out.
        alphas: penalties.
        per_target: one column for each subject feature; else one for their mean.
    """
    live = gram.live
    if not live.size:  # rows of zeros predict nothing
        alone = held.squares if per_target else held.squares.mean(keepdims=True)
        return np.tile(alone / held.n, (len(alphas), 1))
    values, vectors = gram.spectrum
    q = vectors[:, gram.kept]
    d = 1.0 / (values[gram.kept][None, :] + np.asarray(alphas)[:, None])
    v = q.T @ cross[live]
    vb = v * (q.T @ held.cross[live])
    inner = q.T @ _symm(1.0, held.gram[np.ix_(live, live)], q, lower=0)
    if per_target:
        fit = np.stack([((inner @ (row[:, None] * v)) * (row[:, None] * v)).sum(0) for row in d])
        loss = held.squares[None, :] - 2 * d @ vb + fit
    else:
        fit = np.einsum("ak,kl,al->a", d, inner * (v @ v.T), d, optimize=True)
        loss = (held.squares.sum() - 2 * d @ vb.sum(axis=1) + fit)[:, None] / len(held.squares)
    return loss / held.n


def fold_bounds(n: int, folds: int) -> list[int]:
    """Where each of `folds` contiguous folds of n rows begins, and n (as scikit-learn's KFold)."""
    if n < 2:
        raise InputError(f"Expected at least two samples to choose alpha by folds, got {n}.")
    if not 2 <= folds <= n:
        raise InputError(f"Expected from 2 to {n} folds of {n} samples, got {folds}.")
    sizes = np.full(folds, n // folds)
    sizes[: n % folds] += 1
    return [0, *np.cumsum(sizes).tolist()]


def check_alphas(alphas: Sequence[float]) -> None:
    """Penalties are positive: at zero a path has no unique solution.

    Raises:
        InputError: they are not, or there are none.
    """
    if not len(alphas) or not all(np.isfinite(a) and a > 0 for a in alphas):
        raise InputError(f"Expected positive penalties, got {list(alphas)}.")
