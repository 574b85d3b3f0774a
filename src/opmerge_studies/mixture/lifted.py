"""Lifted linear maps, the form of a mixture's DDIM steps, and how far training takes them.

With ``Φ_t(z) = (r_k(z, t) · [z, 1])_k``, r_k the components' responsibilities at step t, a map
``z ↦ Wᵀ Φ_t(z)`` is linear in its weights, and every DDIM step with the exact denoiser is one.
Gradient flow on ``E|Wᵀ Φ - f|²`` from W_0 ends at (THEORY 9)

    W(s) = W* + exp(-2 s G) (W_0 - W*),    G = E[Φ Φᵀ],

so in the eigenbasis of G every coefficient is a Gaussian student of its own, with the retention
that the training model gives for the eigenvalue instead of n_t. What is orthogonal to Φ is the
approximation floor: ``E|student - f|² = floor² + optimisation²`` exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.schedules import NoiseSchedule
from opmerge.training import TrainingModel
from opmerge_studies.mixture.expectation import Nodes
from opmerge_studies.mixture.gaussian_mixture import GaussianMixture

__all__ = ["LiftedMap", "Trained", "Training", "ddim_map", "features", "identity_weights"]

_RANK = 1e-10  # singular values below this part of the largest are rounding

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LiftedMap:
    """``z ↦ Wᵀ Φ(z)`` from step ``start`` to ``stop``.

    Args:
        start: j, the step whose responsibilities it uses.
        stop: i < j.
        gate: the law of z_j, which gives the responsibilities.
        weights: (K (d+1), d): of each component the slopes, then the intercept.
    """

    start: int
    stop: int
    gate: GaussianMixture
    weights: Array

    def __call__(self, points: Array) -> Array:
        """The map at points (n, d)."""
        return features(self.gate, points) @ self.weights


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made of a student.

    Args:
        weights: of the student.
        floor: root mean square of what no weights can fit.
        optimisation: root mean square of what training left of the rest.
    """

    weights: Array
    floor: float
    optimisation: float


class Training:
    """Training of the students at one step: the law of their inputs, factorised once.

    Args:
        gate: the law of z_j.
        nodes: of that law.
        model: the training model, or None for training to the end.
    """

    def __init__(self, gate: GaussianMixture, nodes: Nodes, model: TrainingModel | None) -> None:
        self.features = features(gate, nodes.points)
        self._roots = np.sqrt(nodes.weights)[:, None]
        left, values, right = np.linalg.svd(self._roots * self.features, full_matrices=False)
        rank = int((values > _RANK * values[0]).sum())
        self._left, self._values, self._right = left[:, :rank], values[:rank], right[:rank]
        self.retentions = np.zeros(rank) if model is None else model.retention(values[:rank] ** 2)

    def train(self, initial: Array, target: Array) -> Trained:
        """Train from weights ``initial`` towards the values ``target`` (n, d) at the nodes.

        Works on the error of the start, which may be small, not on the weights of the optimum,
        which are large where responsibilities hardly differ.
        """
        error = self._roots * (target - self.features @ initial)
        modes = self._left.T @ error
        learned = ((1.0 - self.retentions) / self._values)[:, None] * modes
        return Trained(
            initial + self._right.T @ learned,
            float(np.linalg.norm(error - self._left @ modes)),
            float(np.linalg.norm(self.retentions[:, None] * modes)),
        )


def features(gate: GaussianMixture, points: Array) -> Array:
    """(n, K (d+1)) features ``r_k(z) · [z, 1]``, component by component."""
    lifted = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    gated: Array = gate.responsibilities(points)[:, :, None] * lifted[:, None, :]
    return gated.reshape(len(points), -1)


def identity_weights(num_components: int, dimension: int) -> Array:
    """(K (d+1), d) weights of the map z ↦ z, since responsibilities sum to 1."""
    return np.tile(np.eye(dimension + 1, dimension), (num_components, 1))


def ddim_map(mixture: GaussianMixture, schedule: NoiseSchedule, start: int, stop: int) -> LiftedMap:
    """The DDIM step j → i with the exact denoiser: ``α_i x̂ + σ_i / σ_j (z - α_j x̂)``.

    Component k contributes the slopes ``(α_i α_j λ_k + σ_i σ_j) / n_k`` and the intercepts
    ``(α_i - α_j σ_i / σ_j) μ_k σ_j² / n_k``.
    """
    alphas, sigmas = schedule.alphas, schedule.sigmas
    gate = mixture.noised(float(alphas[start]), float(sigmas[start]))
    inner = alphas[stop] * alphas[start] * mixture.variances + sigmas[stop] * sigmas[start]
    kept = sigmas[start] * (alphas[stop] * sigmas[start] - alphas[start] * sigmas[stop])
    blocks = [
        np.vstack([np.diag(slope), intercept])
        for slope, intercept in zip(
            inner / gate.variances, kept * mixture.means / gate.variances, strict=True
        )
    ]
    return LiftedMap(start, stop, gate, np.vstack(blocks))
