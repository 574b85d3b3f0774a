"""Features of a small classifier of the data, for Fréchet distances between samples.

It is a perceptron of one hidden layer, trained on the data's own classes; its hidden values are the
features. They are no Inception's: distances compare samples of one study, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from opmerge.arrays import Array
from opmerge.measure.linearity import as_rows
from opmerge.store import digest

_HIDDEN = 64
_HELD_OUT = 0.1
_MOST_PASSES = 1000  # it stops when a validation set is classified no better


@dataclass(frozen=True, eq=False)
class ClassFeatures:
    """``max(0, x W + b)`` of (N, …) samples x, (N, 64).

    Args:
        weights: (D, 64) W.
        bias: (64,) b.
        accuracy: of the classifier, on a tenth of the data that it was not trained on.
    """

    weights: Array
    bias: Array
    accuracy: float

    def __call__(self, batch: Tensor) -> Array:
        return np.maximum(as_rows(batch) @ self.weights + self.bias, 0.0)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides the features."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as ``from_dict`` reads them."""
        return {
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
            "accuracy": self.accuracy,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ClassFeatures:
        """Read ``to_dict``."""
        return cls(np.array(data["weights"]), np.array(data["bias"]), data["accuracy"])


def train_features(samples: Tensor, labels: Tensor) -> ClassFeatures:
    """The features of (N, …) samples with (N,) classes, always the same of the same data."""
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    rows, classes = as_rows(samples), labels.numpy()
    split = train_test_split(rows, classes, test_size=_HELD_OUT, random_state=0)
    trained, held_out, own_classes, other_classes = split
    classifier = MLPClassifier(
        (_HIDDEN,), max_iter=_MOST_PASSES, early_stopping=True, random_state=0
    )
    classifier.fit(trained, own_classes)
    accuracy = float(classifier.score(held_out, other_classes))
    return ClassFeatures(classifier.coefs_[0], classifier.intercepts_[0], accuracy)
