"""`tg.sklearn`: scikit-learn's own checks, and its tools around the estimators."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tinygrad_mm as tg

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

DenseClassifier, DenseRegressor = tg.sklearn.DenseClassifier, tg.sklearn.DenseRegressor

# As for scikit-learn's own MLPs: the order of the batches is drawn for the examples that there are.
SAMPLE_WEIGHTS = "leaving an example out, or repeating it, changes which examples share a batch; its weight does not"
QUICK = {"epochs": 25, "learning_rate": 0.02, "hidden_sizes": (16,), "random_state": 0}


def expected_failures(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": SAMPLE_WEIGHTS}


@parametrize_with_checks([DenseClassifier(**QUICK), DenseRegressor(**QUICK)], expected_failed_checks=expected_failures)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def test_a_grid_search_over_a_pipeline(iris):
    pipeline = make_pipeline(StandardScaler(), DenseClassifier(**QUICK))
    grid = GridSearchCV(pipeline, {"denseclassifier__hidden_sizes": [(4,), (16,)]}, cv=3).fit(*iris)
    assert grid.best_score_ > 0.9
    assert set(grid.predict(iris[0])) == {0, 1, 2}


def test_digits():
    X, y = load_digits(return_X_y=True)
    classifier = DenseClassifier((32,), epochs=15, learning_rate=5e-3, random_state=0)
    assert cross_val_score(classifier, (X / 16).astype(np.float32), y, cv=3).mean() > 0.88


def test_float32_stays_float32(iris):
    X, y = iris
    fast = DenseClassifier(**{**QUICK, "epochs": 1}).fit(X.astype(np.float32), y)
    assert {p.dtype for p in fast.model_.parameters()} == {np.dtype(np.float32)}
    assert {p.dtype for p in clone(fast).fit(X, y).model_.parameters()} == {np.dtype(np.float64)}


def test_early_stopping_keeps_the_best_epoch():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 5)), rng.integers(0, 2, 80)  # nothing to learn: the held-back loss gets worse
    found = DenseClassifier((64,), epochs=200, learning_rate=0.02, patience=3, random_state=0).fit(X, y)
    losses = found.history_["validation_loss"]
    assert len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 4


def test_heavier_examples_count_for_more():
    X = np.zeros((40, 1))
    y = np.repeat([0, 1], 20)
    weights = np.where(y == 1, 3.0, 1.0)
    found = DenseClassifier((4,), epochs=200, learning_rate=0.02, random_state=0).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(found.predict_proba(X[:1]), [[0.25, 0.75]], atol=0.03)
    mean = DenseRegressor((4,), epochs=200, learning_rate=0.02, random_state=0).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(mean.predict(X[:1]), [0.75], atol=0.03)


def test_several_outputs_and_the_scale_of_the_targets():
    X = np.linspace(-1, 1, 60)[:, None]
    Y = np.hstack([1000 * X + 5000, -0.001 * X])
    found = DenseRegressor((16,), learning_rate=0.02, random_state=0).fit(X, Y)
    assert found.predict(X).shape == Y.shape
    assert found.score(X, Y) > 0.99
    assert found.fit(X, Y[:, 0]).predict(X).shape == (60,)


def test_negative_weights_and_too_few_examples_are_named():
    X, y = np.zeros((4, 1)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="sample_weight"):
        DenseClassifier(**QUICK).fit(X, y, sample_weight=[-1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"validation_fraction=0\.9 of n_samples=4"):
        DenseClassifier(**QUICK, patience=1, validation_fraction=0.9).fit(X, y)


def test_without_scikit_learn_the_extra_is_named():
    code = "import sys; sys.modules['sklearn'] = None; import tinygrad_mm as tg; from tinygrad_mm import *; tg.sklearn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'tinygrad_mm[sklearn]'" in run.stderr
