"""A scikit-learn transformer: neighbours as a sparse matrix, for whatever takes `metric="precomputed"`.

Imported by those who use it (extra `sklearn`); nothing else of constann imports scikit-learn.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from constann.indexes import KINDS, Index, Kind, build

__all__ = ["NeighborsTransformer"]

Array = npt.NDArray[Any]


class NeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn rows into a sparse matrix of their nearest neighbours, in the shape of scikit-learn's KNeighborsTransformer.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        distance: the matrix holds distances, and one neighbour more than `n_neighbors`, as a row of the training set is
        a neighbour of its own. connectivity: it holds ones.
    n_neighbors : int
        Neighbours of a row.
    metric : {"euclidean", "cosine", "manhattan"}
        What distances are; see `constann.Exact`.
    kind : {"graph", "exact", "forest"}
        The kind of index; manhattan needs exact or forest.
    effort : int, optional
        Of a search; see `constann.Index.search`.
    seed : int
        Of the build.
    n_jobs : int, optional
        Threads; None means the CPUs this process may use. The result does not depend on it.

    Attributes
    ----------
    index_ : constann.Index
        The index of the training set.
    n_samples_fit_ : int
        Its rows.
    n_features_in_ : int
        Its columns.

    Examples
    --------
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(NeighborsTransformer(n_neighbors=3), KNeighborsClassifier(2, metric="precomputed"))
    >>> model.fit([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1]).predict([[0.4], [5.4]]).tolist()
    [0, 1]
    """

    def __init__(
        self,
        *,
        mode: Literal["distance", "connectivity"] = "distance",
        n_neighbors: int = 5,
        metric: Literal["euclidean", "cosine", "manhattan"] = "euclidean",
        kind: Kind = "graph",
        effort: int | None = None,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.kind = kind
        self.effort = effort
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: npt.ArrayLike, y: object = None) -> "NeighborsTransformer":  # noqa: N803
        """Build the index.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            The training set.
        y : ignored

        Returns
        -------
        NeighborsTransformer
            Itself.

        Raises
        ------
        ValueError
            A parameter is not one of those listed, or X has no rows, or holds NaN or infinity.
        """
        self._check_parameters()
        rows = self._rows(X, reset=True)
        self.index_: Index = build(rows, self.metric, self.kind, threads=self.n_jobs, seed=self.seed)
        self.n_samples_fit_ = len(rows)
        self._n_features_out = len(rows)  # the columns of what transform returns
        return self

    def transform(self, X: npt.ArrayLike) -> csr_matrix:  # noqa: N803
        """Find the neighbours of rows in the training set.

        Parameters
        ----------
        X : array, shape (n_queries, n_features)

        Returns
        -------
        csr_matrix, shape (n_queries, n_samples_fit)
            Nearest first in each row.

        Raises
        ------
        ValueError
            The training set has fewer rows than neighbours are wanted.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        wanted = self.n_neighbors + (self.mode == "distance")
        if wanted > self.n_samples_fit_:
            raise ValueError(
                f"Expected n_neighbors <= n_samples_fit, but n_neighbors = {wanted}, "
                f"n_samples_fit = {self.n_samples_fit_}, n_samples = {len(rows)}"
            )
        ids, distances = self.index_.search(rows, wanted, effort=self.effort, threads=self.n_jobs)
        found = ids >= 0  # a walk may meet fewer
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(found, axis=1))])
        values = distances[found] if self.mode == "distance" else np.ones(int(starts[-1]), np.float32)
        return csr_matrix((values, ids[found], starts), shape=(len(rows), self.n_samples_fit_))

    def fit_transform(self, X: npt.ArrayLike, y: object = None) -> csr_matrix:  # noqa: N803
        """Build the index of rows and find the neighbours of each among them.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        csr_matrix, shape (n_samples, n_samples)
            As `transform`.
        """
        return self.fit(X).transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # distances are float32
        return tags

    def _rows(self, rows: npt.ArrayLike, reset: bool) -> Array:
        validated: Array = validate_data(self, rows, reset=reset, dtype=[np.float64, np.float32, np.float16])
        return validated

    def _check_parameters(self) -> None:
        if self.mode not in ("distance", "connectivity"):
            raise ValueError(f"mode must be 'distance' or 'connectivity', not {self.mode!r}")
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, not {self.n_neighbors}")
        if self.kind in KINDS and self.metric not in KINDS[self.kind].metrics:
            raise ValueError(f"kind {self.kind!r} has no metric {self.metric!r}: use 'exact' or 'forest'")
