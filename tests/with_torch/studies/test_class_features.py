"""Features of a classifier: that it classifies, and that they are its hidden values."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from opmerge import open_source
from opmerge.denoisers.inputs import load_labels, load_samples
from opmerge.metrics import gaussian_fit_w2
from opmerge_studies.shared.features import ClassFeatures, train_features


@pytest.fixture(scope="module")
def digits():
    samples = load_samples(open_source("digits"), (1, 8, 8))[:]
    return samples, load_labels("digits", len(samples))


@pytest.fixture(scope="module")
def features(digits) -> ClassFeatures:
    return train_features(*digits)


def test_digits_are_told_apart(features, digits):
    """Nine of ten held out, where a guess has one."""
    assert features.accuracy > 0.9
    assert features(digits[0]).shape == (len(digits[0]), 64)


def test_they_are_the_hidden_values_that_the_classifier_itself_has(features, digits, monkeypatch):
    """By scikit-learn's own pass forward."""
    made = []
    fit = MLPClassifier.fit
    monkeypatch.setattr(
        MLPClassifier, "fit", lambda self, *given: made.append(self) or fit(self, *given)
    )
    again, rows = train_features(*digits), digits[0].reshape(len(digits[0]), -1).double().numpy()
    layers = [rows, *(np.empty((len(rows), n)) for n in (64, 10))]
    hidden = made[0]._forward_pass(layers)[1]
    assert np.allclose(hidden, features(digits[0]), atol=1e-12)
    assert again.digest == features.digest


def test_samples_of_other_classes_are_farther(features, digits):
    """Halves of all digits beside zeros and ones."""
    samples, labels = digits
    half, other = features(samples[::2]), features(samples[1::2])
    few = features(samples[labels < 2])
    assert gaussian_fit_w2(half, other) < 0.2 * gaussian_fit_w2(half, few)


def test_they_go_through_json(features, digits):
    again = ClassFeatures.from_dict(features.to_dict())
    assert (again(digits[0]) == features(digits[0])).all()
