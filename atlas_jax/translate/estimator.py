"""A translation as a scikit-learn transformer: rows of a subject in, scores of concepts out."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float32
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from atlas_jax.errors import InputError
from atlas_jax.translate.fit import fit
from atlas_jax.translate.methods import DEFAULTS, Options
from atlas_jax.translate.rows import check_finite
from atlas_jax.translate.translation import Translation


class TranslationTransformer(TransformerMixin, BaseEstimator):
    """X -> X T^, T^ the rows of T at unit length: column k is how much a sample's activations agree
    with atlas feature k (what the evaluation of a translation ranks samples by).

    Works in a `Pipeline`, in searches over its parameters, and with `clone`.

    Args:
        method: a key of `METHODS`.
        options: settings of the method.

    Attributes:
        translation_: the fitted `Translation`.
        n_features_in_: d_s.
    """

    def __init__(self, method: str = "procrustes", options: Options = DEFAULTS) -> None:
        self.method = method
        self.options = options

    def fit(self, X: Float[np.ndarray, "n ds"], y: Float[np.ndarray, "n dc"]) -> Self:
        """Fits T from rows of the subject and of the atlas on the same samples.

        Raises:
            InputError: an unknown method, or sides with different samples.
        """
        rows, labels = np.asarray(X, np.float32), np.asarray(y, np.float32)
        return self._take(fit(rows, labels, (self.method,), options=self.options)[self.method])

    @classmethod
    def of(cls, translation: Translation) -> Self:
        """One that is fitted already."""
        return cls(translation.method)._take(translation)

    def _take(self, translation: Translation) -> Self:
        self.translation_ = translation
        self.n_features_in_ = translation.matrix.shape[0]
        return self

    def transform(self, X: Float[np.ndarray, "n ds"]) -> Float32[np.ndarray, "n dc"]:
        """The score of each sample for each atlas feature.

        Raises:
            InputError: rows of another width, or not finite.
        """
        check_is_fitted(self, "translation_")
        rows, t = np.asarray(X, np.float32), self.translation_
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise InputError(
                f"Expected rows of {self.n_features_in_} subject features, got shape {rows.shape}."
            )
        check_finite({"X": rows}, 0)
        return (rows / t.row_norms) @ t.matrix

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The labels of the atlas features that have one, and `<site>.<index>` of the others."""
        check_is_fitted(self, "translation_")
        meta, width = self.translation_.meta, self.translation_.matrix.shape[1]
        labels = meta.get("labels") or {}
        site = (meta.get("atlas") or {}).get("site") or "atlas"
        names = [labels.get(str(k), f"{site}.{k}") for k in range(width)]
        return np.array(names, dtype=object)
