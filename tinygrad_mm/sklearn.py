"""Networks of dense layers as scikit-learn's estimators (extra `sklearn`): in pipelines, grids and cross-validation.

Floor 10. Training is `fit`'s: each step compiled, Adam with decoupled weight decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_mm.nn import CrossEntropyLoss, Dense, Dropout, Module, MSELoss, Sequential
from tinygrad_mm.nn.activations import Activation
from tinygrad_mm.optim import AdamW
from tinygrad_mm.training import EarlyStopping, fit, predict

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "tg.sklearn needs scikit-learn 1.6 or later: pip install 'tinygrad_mm[sklearn]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DenseClassifier", "DenseRegressor"]


class _DenseEstimator(BaseEstimator):
    """What classifier and regressor share: their options, the network and its training."""

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (100,),
        *,
        activation: Activation = "relu",
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 32,
        epochs: int = 100,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def _train(self, x: Any, y: Any, outputs: int, loss: Any, sample_weight: Any) -> None:
        """Make a network of the data's dtype and train it; `y` are labels or numbers of the shape of its output."""
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, x, dtype=x.dtype, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError(f"{type(self).__name__}.fit: all of sample_weight are 0, for every class of examples")
            sample_weight = sample_weight / sample_weight.mean()  # so that the learning rate keeps its meaning
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = self._network(x.shape[1], outputs, rng).to(x.dtype)
        validation = early = None
        if self.patience is not None:
            order = rng.permutation(len(x))
            held = max(1, round(self.validation_fraction * len(x)))
            if held >= len(x):
                raise ValueError(
                    f"{type(self).__name__}.fit: validation_fraction={self.validation_fraction} of n_samples={len(x)} "
                    "leaves none to learn from; give more samples, or patience=None"
                )
            validation, kept = (x[order[:held]], y[order[:held]]), order[held:]
            x, y = x[kept], y[kept]
            sample_weight = None if sample_weight is None else sample_weight[kept]
            early = EarlyStopping(self.patience)
        optimizer = AdamW(self.model_.parameters(), learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        self.history_ = fit(
            self.model_,
            (x, y),
            loss,
            optimizer,
            self.epochs,
            batch_size=self.batch_size,
            rng=rng,
            validation=validation,
            sample_weight=sample_weight,
            early_stopping=early,
            progress=False,
        )

    def _network(self, inputs: int, outputs: int, rng: np.random.Generator) -> Module:
        layers: list[Module] = []
        for size in self.hidden_sizes:
            layers.append(Dense(inputs, size, activation=self.activation, rng=rng))
            if self.dropout:
                layers.append(Dropout(self.dropout, rng=rng))
            inputs = size
        return Sequential(*layers, Dense(inputs, outputs, rng=rng))

    def _output(self, X: Any) -> Any:
        """What the network gives for data, as float64."""
        check_is_fitted(self)
        dtype = next(iter(self.model_.parameters())).dtype
        return np.asarray(predict(self.model_, validate_data(self, X, dtype=dtype, reset=False)), np.float64)


class DenseClassifier(ClassifierMixin, _DenseEstimator):
    """A network of dense layers that classifies: softmax of the last layer, trained by the cross entropy.

    `hidden_sizes` are the widths of the hidden layers, each followed by `activation` and, in training, `dropout`. With
    `patience`, `validation_fraction` of the examples are held back, training ends when their loss (which takes no
    account of weights) has not become smaller for so many epochs, and the weights of the best epoch are kept. Data of
    float32 are learned from in float32, all others in float64. Scale the features before, by a StandardScaler.

    After `fit`: `classes_`, `model_` (the `nn.Sequential`), `history_` (by epoch), `n_features_in_`.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = DenseClassifier((16,), epochs=40, learning_rate=0.01, random_state=0).fit(X, y)
    >>> classifier.score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network; returns the estimator.

        Shape: X (n_samples, n_features), y (n_samples,), sample_weight (n_samples,)
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._train(X, labels, len(self.classes_), CrossEntropyLoss(), sample_weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """Probabilities of the classes, in the order of `classes_`.

        Shape: (n_samples, n_features) -> (n_samples, n_classes)
        """
        logits = self._output(X)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The most probable class of each example.

        Shape: (n_samples, n_features) -> (n_samples,)
        """
        largest = self._output(X).argmax(axis=1)
        return self.classes_[largest]


class DenseRegressor(RegressorMixin, _DenseEstimator):
    """A network of dense layers that predicts numbers, trained by the squared error of targets brought to variance 1.

    Options as of `DenseClassifier`. After `fit`: `model_`, `history_`, `n_features_in_`.

    >>> X = np.linspace(-2, 2, 100)[:, None]
    >>> regressor = DenseRegressor((32,), learning_rate=0.01, random_state=0).fit(X, np.sin(X[:, 0]))
    >>> regressor.score(X, np.sin(X[:, 0])) > 0.98
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network; returns the estimator.

        Shape: X (n_samples, n_features), y (n_samples,) or (n_samples, n_outputs), sample_weight (n_samples,)
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True)
        columns = y.reshape(len(y), -1).astype(np.float64)
        self.mean_ = columns.mean(axis=0)
        spread = columns.std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        self._one_number = y.ndim == 1
        targets = ((columns - self.mean_) / self.scale_).astype(X.dtype)
        self._train(X, targets, targets.shape[1], MSELoss(), sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The numbers of each example.

        Shape: (n_samples, n_features) -> (n_samples,) or (n_samples, n_outputs), as `y` had
        """
        found = self._output(X) * self.scale_ + self.mean_
        return found[:, 0] if self._one_number else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = tags.target_tags.multi_output = True
        return tags
