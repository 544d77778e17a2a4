"""constann.sklearn is a transformer that scikit-learn's own checks accept, in the shape of KNeighborsTransformer."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from constann.sklearn import NeighborsTransformer


@parametrize_with_checks([NeighborsTransformer(), NeighborsTransformer(mode="connectivity", kind="exact")])
def test_scikit_learns_own_checks(estimator: NeighborsTransformer, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_an_exact_index_finds_what_scikit_learn_finds(mode: str, metric: str) -> None:
    rows = np.random.default_rng(0).standard_normal((80, 5))
    ours = NeighborsTransformer(mode=mode, metric=metric, n_neighbors=4, kind="exact").fit_transform(rows)  # type: ignore[arg-type]
    theirs = KNeighborsTransformer(mode=mode, metric=metric, n_neighbors=4).fit_transform(rows)  # type: ignore[arg-type]
    assert ours.shape == theirs.shape and (ours.indptr == theirs.indptr).all()
    assert np.allclose(ours.toarray(), theirs.toarray(), atol=1e-6)


def test_it_serves_in_pipelines_and_searches_of_parameters() -> None:
    rows, labels = load_digits(return_X_y=True)
    model = make_pipeline(NeighborsTransformer(n_neighbors=8), KNeighborsClassifier(5, metric="precomputed"))
    assert model.fit(rows[:1200], labels[:1200]).score(rows[1200:], labels[1200:]) > 0.9
    search = GridSearchCV(model, {"neighborstransformer__kind": ["graph", "forest"]}, cv=2, error_score="raise")
    assert search.fit(rows[:600], labels[:600]).best_score_ > 0.8
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(rows[1200:]) == model.predict(rows[1200:])).all()
    clusters = make_pipeline(NeighborsTransformer(n_neighbors=10), DBSCAN(eps=25, metric="precomputed"))
    assert len(np.unique(clusters.fit_predict(rows[:600]))) > 5


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"mode": "both"}, "mode must be 'distance' or 'connectivity', not 'both'"),
        ({"n_neighbors": 0}, "n_neighbors must be at least 1"),
        ({"metric": "manhattan"}, "kind 'graph' has no metric 'manhattan': use 'exact' or 'forest'"),
        ({"kind": "tree"}, "there is no index kind 'tree'"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, object], complaint: str) -> None:
    estimator = clone(NeighborsTransformer()).set_params(**parameters)
    with pytest.raises(ValueError, match=complaint):
        estimator.fit(np.eye(8))


def test_scikit_learn_is_imported_by_nobody_else() -> None:
    code = "import sys, constann, constann.indexes, constann.pairs; print('sklearn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
