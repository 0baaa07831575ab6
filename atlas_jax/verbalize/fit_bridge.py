"""Fitting a bridge: pairs read once, the penalty chosen by documents left out, one solution."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from atlas_jax.activations import TokenArray
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar, track
from atlas_jax.translate.ridge_path import check_alphas, gcv_errors, held_out_errors
from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.bridge_moments import BridgeMoments, PairSums, Sums
from atlas_jax.verbalize.held_out import held_out_quality
from atlas_jax.verbalize.pairs import Pairing, text_key
from atlas_jax.verbalize.reading import ModelSide, PairReader, Side, StoreSide
from atlas_jax.verbalize.standardise import Standardised

TAUS = tuple(10.0**x for x in np.linspace(-6, 1, 15))
ROWS = ("raw", "unit")
_SAVE_EVERY = 120.0


@dataclass(frozen=True)
class Ridge:
    """How the map is solved.

    Attributes:
        taus: penalties relative to the number of pairs: lambda = tau n, and n is the mean
            eigenvalue of K.
        choose: `kfold` (documents left out; the largest penalty within one standard error of the
            best), `gcv` (optimistic for tokens that share documents), or one tau.
        scaling: of the source: `x_std` or `none`.
    """

    taus: tuple[float, ...] = TAUS
    choose: str | float = "kfold"
    scaling: str = "x_std"


def fit_bridge(
    source: Any,
    target: Any,
    corpus: Any,
    source_site: str,
    target_site: str,
    *,
    pairing: Pairing | None = None,
    ridge: Ridge | None = None,
    rows: str = "raw",
    folds: int = 5,
    held: int = 1000,
    moments: str | Path | None = None,
    batch_tokens: int = 2048,
    shuffle: bool = False,
) -> Bridge:
    """Fits an affine ridge map from one model's residual stream to another's.

    Args:
        source: a `LanguageModel`; or a store of every token of these texts and the tokenizer of its
            model, `(store, tokenizer)`.
        target: the same.
        corpus: texts: a half of a corpus, which names their documents, or a list.
        source_site: e.g. `blocks.20.hook_resid_post`.
        target_site: e.g. `blocks.41.hook_resid_post`.
        pairing: which tokens are paired.
        ridge: how the map is solved.
        rows: `raw`, or `unit`: rows divided by their length (then the map is one of unit vectors).
        folds: of the documents.
        held: pairs of further documents, kept to measure the map on.
        moments: file to save the sums in; a fit that was stopped goes on from there, and
            `solve_bridge` refits from it in seconds.
        batch_tokens: positions of a batch.
        shuffle: pair rows wrongly, at random among some hundred: the null of a bridge that knows
            both models' marginals and nothing of what belongs together.

    Raises:
        InputError: wrong sites, tokenizers without offsets, or too few pairs.
    """
    sides = [
        _side(side, site, batch_tokens)
        for side, site in ((source, source_site), (target, target_site))
    ]
    reader = PairReader(sides[0], sides[1], getattr(corpus, "train", corpus), pairing or Pairing())
    found = read_moments(reader, rows, folds, held, moments, shuffle)
    return solve_bridge(found, ridge or Ridge())


def read_moments(
    reader: PairReader,
    rows: str = "raw",
    folds: int = 5,
    held: int = 1000,
    path: str | Path | None = None,
    shuffle: bool = False,
) -> BridgeMoments:
    """The moments of all pairs; with a path, saved now and then, and gone on from.

    Raises:
        InputError: no pairs, or a file of other pairs.
    """
    if rows not in ROWS:
        raise InputError(f"Expected rows among {', '.join(ROWS)}, got '{rows}'.")
    about = {
        "source": reader.source.about(),
        "target": reader.target.about(),
        "runs": [_texts_hash(reader.texts)],
        "pairing": asdict(reader.pairing),
        "rows": rows,
        "shuffled": shuffle,
        "texts": len(reader.texts),
    }
    start, begin = _resume(path, about, folds)
    if begin == len(reader.texts) and start is not None:
        return start
    sums = PairSums(folds, held, start)
    saved = time.monotonic()
    with Bar("pairs", len(reader.texts)) as bar:
        bar.advance(begin)
        for block in reader.blocks(begin):
            x, y = block.source, block.target
            if rows == "unit":
                x, y = unit_rows(x), unit_rows(y)
            if shuffle:
                y = y[np.random.default_rng([reader.pairing.seed, begin]).permutation(len(y))]
            sums.add(x, y, block.documents)
            bar.advance(block.texts - begin)
            begin = block.texts
            if path and time.monotonic() - saved > _SAVE_EVERY and sums.state is not None:
                sums.moments({**about, "read": begin}).save(path)
                saved = time.monotonic()
    if sums.state is None:
        raise InputError(
            "Expected pairs, none was left "
            f"({', '.join(f'{v} {k}' for k, v in reader.dropped.items())}): give longer texts, or "
            f"a smaller min_left than {reader.pairing.min_left}."
        )
    found = sums.moments({**about, "read": begin, "dropped": dict(reader.dropped)})
    if path:
        found.save(path)
    return found


def solve_bridge(moments: BridgeMoments, ridge: Ridge | None = None) -> Bridge:
    """The bridge of some moments: every penalty from one eigendecomposition of each fold.

    Raises:
        InputError: no penalty, or folds too small.
    """
    ridge = ridge or Ridge()
    check_alphas([ridge.choose] if not isinstance(ridge.choose, str) else ridge.taus)
    whole = Standardised.of(moments.whole(), ridge.scaling)
    n = whole.n
    path: dict[str, Any] = {"taus": list(ridge.taus)}
    tau = 0.0 if isinstance(ridge.choose, str) else float(ridge.choose)
    if ridge.choose == "kfold":
        errors, weights = _fold_errors(moments, ridge)
        tau, path["kfold"], path["standard_error"] = _one_standard_error(
            ridge.taus, errors, weights
        )
    squares = np.full(len(whole.scale_y), float(n))
    scan = gcv_errors(whole.gram, whole.cross, squares, n, [t * n for t in ridge.taus], True)
    path["gcv"] = scan.mean(axis=1).tolist()
    if ridge.choose == "gcv":
        tau = ridge.taus[int(np.argmin(scan.mean(axis=1)))]
    elif isinstance(ridge.choose, str) and ridge.choose != "kfold":
        raise InputError(f"Expected choose 'kfold', 'gcv' or a tau, got '{ridge.choose}'.")
    penalty = tau * n
    matrix = whole.solve(penalty)
    values, vectors = whole.gram.spectrum
    df = 1 + float((values[whole.gram.kept] / (values[whole.gram.kept] + penalty)).sum())
    rss = gcv_errors(whole.gram, whole.cross, squares, n, [penalty], True)[0]
    rss = rss * n * (1 - df / n) ** 2 * whole.scale_y**2
    mean_x, mean_y = moments.pilot_x + whole.mean_x, moments.pilot_y + whole.mean_y
    eigenvectors = np.zeros((len(whole.scale_x), int(whole.gram.kept.sum())), np.float32)
    eigenvectors[whole.gram.live] = vectors[:, whole.gram.kept]
    meta = {
        **moments.about,
        "n": n,
        "folds": moments.folds,
        "scaling": ridge.scaling,
        "tau": float(tau),
        "lambda": float(penalty),
        "chosen_by": ridge.choose if isinstance(ridge.choose, str) else "given",
        "df": df,
        "noise": float(rss.sum() / max(n - df, 1.0)),
        "path": path,
    }
    del values, vectors
    halves = [
        Standardised.of(moments.whole(range(k, len(moments.parts), 2)), ridge.scaling)
        for k in (0, 1)
    ]
    bridge = Bridge(
        matrix=matrix.astype(np.float32),
        intercept=mean_y - matrix @ mean_x,
        mean_x=mean_x,
        mean_y=mean_y,
        scale_x=whole.scale_x,
        scale_y=whole.scale_y,
        eigenvalues=whole.gram.spectrum[0][whole.gram.kept],
        eigenvectors=eigenvectors,
        halves=tuple(half.solve(tau * half.n).astype(np.float32) for half in halves),  # type: ignore[arg-type]
        meta=meta,
    )
    fve = {"per_dimension_in_sample": 1 - float((rss / whole.scale_y**2).sum()) / squares.sum()}
    if "kfold" in path:
        fve["per_dimension_kfold"] = 1 - path["kfold"][ridge.taus.index(tau)]
    if len(moments.held_x):
        fve |= held_out_quality(bridge, moments.held_x, moments.held_y)
    bridge.meta["fve"] = fve
    return bridge


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their length; a zero row stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1).astype(rows.dtype)


def _fold_errors(
    moments: BridgeMoments, ridge: Ridge
) -> tuple[Float64[np.ndarray, "k a"], Float64[np.ndarray, " k"]]:
    """Held-out squared error per target dimension in units of D_y^2, and the pairs of each fold.

    Centring and scaling are those of the fitted pairs.
    """
    total = moments.whole()
    errors, weights = [], []
    for k in track(range(moments.folds), "folds"):
        mine: Sums | None = moments.fold(k)
        assert mine is not None
        if not mine.n:
            continue
        rest: Sums | None = total - mine
        assert rest is not None
        fitted = Standardised.of(rest, ridge.scaling)
        del rest
        held = fitted.held_out(mine)
        mine = None
        penalties = [tau * fitted.n for tau in ridge.taus]
        errors.append(held_out_errors(fitted.gram, fitted.cross, held, penalties)[:, 0])
        weights.append(float(held.n))
    if len(errors) < 2:
        raise InputError(
            f"Expected pairs in at least two of {moments.folds} folds, got {len(errors)}: pair "
            "texts of more documents."
        )
    return np.array(errors), np.array(weights)


def _one_standard_error(
    taus: Sequence[float], errors: np.ndarray, weights: np.ndarray
) -> tuple[float, list[float], list[float]]:
    """The largest penalty whose error is within one standard error of the least."""
    mean = weights @ errors / weights.sum()
    spread = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
    best = int(np.argmin(mean))
    allowed = [t for t, e in zip(taus, mean, strict=True) if e <= mean[best] + spread[best]]
    return max(allowed), mean.tolist(), spread.tolist()


def _side(side: Any, site: str, batch_tokens: int) -> Side:
    if not isinstance(side, tuple):
        return ModelSide(side, site, batch_tokens)
    store, tokenizer = side
    tokens = store[site]
    if not isinstance(tokens, TokenArray):
        raise InputError(
            f"Expected a store with a row for each token, {store.url} has one for each text: "
            'capture with pool="tokens".'
        )
    return StoreSide(tokens, tokenizer)


def _texts_hash(texts: Any) -> str:
    return str(getattr(texts, "hash", "")) or f"{text_key(*map(str, texts)):016x}"


def _resume(
    path: str | Path | None, about: dict[str, Any], folds: int
) -> tuple[BridgeMoments | None, int]:
    if path is None or not Path(path).exists():
        return None, 0
    found = BridgeMoments.load(path)
    there = {key: found.about.get(key) for key in about}
    if there != about or found.folds != folds:
        raise InputError(
            f"Expected the moments of these models, texts and pairs in {path}, found others: name "
            "another file."
        )
    return found, int(found.about["read"])
