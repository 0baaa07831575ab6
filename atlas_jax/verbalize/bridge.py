"""A bridge: an affine map between two residual streams, what it does to points, directions and
covectors, and how far each mapped direction can be trusted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing
from atlas_jax.verbalize.held_out import TOP

_FORMAT = "atlas-jax bridge 1"
FILE = "bridge.safetensors"
"""The file of a bridge's repository on the hub."""
_NAMES = ("matrix", "intercept", "mean_x", "mean_y", "scale_x", "scale_y")
_SPECTRUM = ("eigenvalues", "eigenvectors")


@dataclass
class Bridge:
    """F(x) = M x + c, from the source's residual stream (p) to the target's (q).

    Attributes:
        matrix: M, (q, p).
        intercept: c, (q,).
        mean_x: of the fitted source rows.
        mean_y: of the fitted target rows.
        scale_x: D_x, what source rows were divided by.
        scale_y: D_y, standard deviations of the target rows.
        eigenvalues: of K = D_x^-1 C_xx D_x^-1, (r,).
        eigenvectors: of K, (p, r).
        halves: M of two disjoint halves of the documents.
        meta: source and target (model, site, width, tokenizer), runs, pairing, n, folds, lambda,
            df, noise, path, fve.
    """

    matrix: Float32[np.ndarray, "q p"]
    intercept: Float64[np.ndarray, " q"]
    mean_x: Float64[np.ndarray, " p"]
    mean_y: Float64[np.ndarray, " q"]
    scale_x: Float64[np.ndarray, " p"]
    scale_y: Float64[np.ndarray, " q"]
    eigenvalues: Float64[np.ndarray, " r"]
    eigenvectors: Float32[np.ndarray, "p r"]
    halves: tuple[Float32[np.ndarray, "q p"], Float32[np.ndarray, "q p"]]
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        source, target = (self.meta.get(side, {}) for side in ("source", "target"))
        q, p = self.matrix.shape
        return (
            f"Bridge({source.get('model')} {source.get('site')} ({p}) -> {target.get('model')} "
            f"{target.get('site')} ({q}), {self.meta.get('n', 0):,} pairs)"
        )

    def point(self, x: Float[np.ndarray, " p"]) -> Float64[np.ndarray, " q"]:
        """Where an activation goes: F(x) = M x + c. For what a model's site holds on a token."""
        return self.points(self._checked(x, "an activation")[None])[0]

    def points(self, x: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, "n q"]:
        """`point` of several activations."""
        centred = x.astype(np.float64) - self.mean_x  # M x + c, without their cancellation
        return centred @ self.matrix.T.astype(np.float64) + self.mean_y

    def direction(self, d: Float[np.ndarray, " p"]) -> Float64[np.ndarray, " q"]:
        """What adding a direction does: M d, of unit length, sign kept; the intercept plays no
        part. For decoder rows, steering vectors and differences of means.

        Raises:
            InputError: another width, a zero direction, or one that the map sends to nothing.
        """
        return self.directions(self._checked(d, "a direction")[None])[0]

    def directions(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, "n q"]:
        """`direction` of several."""
        mapped = self.mapped(d)
        norms = np.linalg.norm(mapped, axis=1)
        lengths = np.linalg.norm(d.astype(np.float64), axis=1)
        if not np.isfinite(norms).all() or (norms <= 1e-12 * lengths).any() or not lengths.all():
            raise InputError(
                "Expected directions that are finite and not zero, and that the bridge does not "
                "send to zero."
            )
        return mapped / norms[:, None]

    def mapped(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, "n q"]:
        """M d of several directions, of the length that the map gives them."""
        return d.astype(np.float64) @ self.matrix.T.astype(np.float64)

    def covector(self, e: Float[np.ndarray, " p"]) -> Float64[np.ndarray, " q"]:
        """What reads from the target what `e` reads from the source: pinv(M)' e, so that
        <covector(e), M x> = <e, x> where M keeps x. For encoder rows and probes."""
        rows = self._checked(e, "a covector").astype(np.float64)
        found, *_ = np.linalg.lstsq(self.matrix.T.astype(np.float64), rows, rcond=1e-7)
        return found

    def reliability(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, " n"]:
        """t = (||M d||^2 - tr(S) q(d)) / ||M d||^2: the share of M d that is not noise of the fit.

        u = D_x^-1 d, G = (K + lambda I)^-1, q(d) = u' G K G u, S the residual covariance. Rows are
        taken as independent, which tokens of one document are not: `split_half` is the check.
        """
        inner = (d.astype(np.float64) / self.scale_x) @ self.eigenvectors.astype(np.float64)
        weight = self.eigenvalues / (self.eigenvalues + self.meta["lambda"]) ** 2
        signal = (self.mapped(d) ** 2).sum(axis=1)
        return 1 - self.meta["noise"] * (inner**2 @ weight) / np.maximum(signal, 1e-300)

    def shrinkage(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, " n"]:
        """rho = cos(d, D_x G K D_x^-1 d): what the penalty alone does to a direction."""
        vectors = self.eigenvectors.astype(np.float64)
        inner = (d.astype(np.float64) / self.scale_x) @ vectors
        kept = self.eigenvalues / (self.eigenvalues + self.meta["lambda"])
        return cosines(d.astype(np.float64), ((inner * kept) @ vectors.T) * self.scale_x)

    def split_half(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, " n"]:
        """r = cos(M_1 d, M_2 d), maps of two disjoint halves of the documents."""
        first, second = (d.astype(np.float64) @ half.T.astype(np.float64) for half in self.halves)
        return cosines(first, second)

    def top_share(self, d: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, " n"]:
        """Share of ||M d||^2 in the ten target dimensions of largest variance."""
        squares = self.mapped(d) ** 2
        top = np.argsort(-self.scale_y, kind="stable")[:TOP]
        return squares[:, top].sum(axis=1) / np.maximum(squares.sum(axis=1), 1e-300)

    def common_component(self, draws: int = 200, seed: int = 0) -> float:
        """Mean |cosine| among mapped random directions: above 0.5 a few dimensions dominate."""
        rng = np.random.default_rng(seed)
        made = self.directions(rng.standard_normal((draws, self.matrix.shape[1])))
        inner = np.abs(made @ made.T)
        return float((inner.sum() - draws) / (draws * (draws - 1)))

    def project_out(self, k: int, draws: int = 1000, seed: int = 0) -> Float64[np.ndarray, "k q"]:
        """The k principal directions of mapped random directions, to be removed from mapped ones
        where `common_component` is large (`removed`); an option to be named with the result."""
        rng = np.random.default_rng(seed)
        made = self.directions(rng.standard_normal((draws, self.matrix.shape[1])))
        return np.linalg.svd(made, full_matrices=False)[2][:k]

    def _checked(self, vector: np.ndarray, what: str) -> np.ndarray:
        vector = np.asarray(vector)
        if vector.shape != (self.matrix.shape[1],):
            raise InputError(
                f"Expected {what} of the source ({self.meta.get('source', {}).get('model')}), of "
                f"shape ({self.matrix.shape[1]},), got {vector.shape}."
            )
        return vector

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a safetensors file with a JSON header, in one step."""
        tensors = {name: getattr(self, name) for name in (*_NAMES, *_SPECTRUM)}
        tensors |= {f"half{i}": half for i, half in enumerate(self.halves)}
        return write_tensors(path, tensors, {"format": _FORMAT, "header": json.dumps(self.meta)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bridge:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, or not a whole bridge.
        """
        needs = (*_NAMES, *_SPECTRUM, "half0", "half1")
        notes, tensors = read_tensors(path, "bridge", "fit it again", _FORMAT, "header", needs)
        with refusing(f"the bridge at {path}", "It is damaged: fit it again"):
            _check(tensors, notes["header"])
            halves = tensors["half0"], tensors["half1"]
            arrays = {name: tensors[name] for name in (*_NAMES, *_SPECTRUM)}
            return cls(halves=halves, meta=notes["header"], **arrays)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Uploads the bridge with a card; returns the commit's address. See `hub.push`."""
        from atlas_jax.hub import card, push

        about = f"A bridge of atlas-jax.\n\n```\n{self!r}\n```"
        load = f'bridge = Bridge.from_hub("{repo_id}")  # of atlas_jax.verbalize'
        text = card("bridge", about, load, FILE, self.meta)
        return push(self.save, FILE, text, repo_id, token, private=private, revision=revision)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | None = None
    ) -> Bridge:
        """Reads what `push_to_hub` uploaded. See `hub.pull`."""
        from atlas_jax.hub import pull

        return cls.load(pull(FILE, repo_id, revision, token))


def _check(tensors: Mapping[str, np.ndarray], meta: Any) -> None:
    """Refuses tensors that are no bridge's, and metadata without what is computed with."""
    q, p = tensors["matrix"].shape
    r = len(tensors["eigenvalues"])
    shapes = {name: (p,) for name in ("mean_x", "scale_x")}
    shapes |= {name: (q,) for name in ("intercept", "mean_y", "scale_y")}
    shapes |= {"half0": (q, p), "half1": (q, p), "eigenvalues": (r,), "eigenvectors": (p, r)}
    for name, shape in shapes.items():
        if tensors[name].shape != shape or tensors[name].dtype.kind != "f":
            raise ValueError(f"{name} is of shape {tensors[name].shape} and {tensors[name].dtype}")
    sides = [meta.get(side) or {} for side in ("source", "target")]
    if not all(isinstance(side, dict) for side in sides):
        raise ValueError("its source or target is no table")
    if not all(math.isfinite(meta[name]) for name in ("lambda", "noise") if name in meta):
        raise ValueError("its lambda or noise is not finite")


def removed(
    directions: Float[np.ndarray, "n q"], common: Float[np.ndarray, "k q"]
) -> Float64[np.ndarray, "n q"]:
    """Directions without their part in the span of orthonormal rows, of unit length again."""
    left = directions - (directions @ common.T) @ common
    return left / np.linalg.norm(left, axis=1, keepdims=True)


def cosines(a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "n d"]) -> np.ndarray:
    """The cosine of each pair of rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-300)
