"""Mixtures of Gaussians with diagonal covariances: their noised laws and exact denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from opmerge.errors import InputError

__all__ = ["GaussianMixture"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The law ``Σ_k π_k N(μ_k, Diag(λ_k))`` in d dimensions, with K components.

    A covariance that all components share can be full: rotate to its eigenbasis, with which
    isotropic noise commutes. Components with different eigenbases are not covered.

    Args:
        weights: (K,) π_k > 0, which sum to 1.
        means: (K, d).
        variances: (K, d) λ_k > 0.

    Raises:
        InputError: for shapes that do not fit, or values out of range.
    """

    weights: Array
    means: Array
    variances: Array

    def __post_init__(self) -> None:
        for name, dimensions in (("weights", 1), ("means", 2), ("variances", 2)):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != dimensions or not values.size or not np.isfinite(values).all():
                raise InputError(
                    name, f"must be a finite array of {dimensions} dimensions", values.shape
                )
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.means.shape != self.variances.shape or len(self.means) != len(self.weights):
            raise InputError(
                "weights, means and variances",
                "must have shapes (K,), (K, d) and (K, d)",
                (self.weights.shape, self.means.shape, self.variances.shape),
            )
        if self.weights.min() <= 0 or abs(self.weights.sum() - 1) > 1e-9:
            raise InputError("weights", "must be > 0 and sum to 1", self.weights.tolist())
        if self.variances.min() <= 0:
            raise InputError("variances", "must be > 0", float(self.variances.min()))

    @classmethod
    def of(
        cls, means: ArrayLike, variances: ArrayLike, weights: ArrayLike | None = None
    ) -> GaussianMixture:
        """A mixture of components of equal weight, unless told; (K,) arrays are one dimension."""
        columns = [np.asarray(values, dtype=np.float64) for values in (means, variances)]
        means, variances = (v[:, None] if v.ndim == 1 else v for v in columns)
        equal = np.full(len(means), 1.0 / len(means))
        return cls(equal if weights is None else np.asarray(weights), means, variances)

    @property
    def num_components(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def dimension(self) -> int:
        """The d of its vectors."""
        return int(self.means.shape[1])

    @cached_property
    def mean(self) -> Array:
        """(d,) mean of the whole law."""
        return self.weights @ self.means

    @cached_property
    def covariance(self) -> Array:
        """(d, d) covariance of the whole law, ``Σ π_k (Diag(λ_k) + μ_k μ_kᵀ) - m mᵀ``."""
        centred = self.means - self.mean
        inside = np.diag(self.weights @ self.variances)
        return inside + (self.weights[:, None] * centred).T @ centred

    def noised(self, alpha: float, sigma: float) -> GaussianMixture:
        """The law of ``alpha x + sigma ε``: means alpha μ_k, variances alpha² λ_k + sigma²."""
        variances = alpha**2 * self.variances + sigma**2
        return GaussianMixture(self.weights, alpha * self.means, variances)

    def log_densities(self, points: Array) -> Array:
        """(n, K) log of ``π_k N(z; μ_k, λ_k)`` at points (n, d)."""
        precisions = 1.0 / self.variances
        constants = np.log(self.weights) - 0.5 * np.log(2 * np.pi * self.variances).sum(axis=1)
        offsets = constants - 0.5 * (self.means**2 * precisions).sum(axis=1)
        densities: Array = (
            offsets + points @ (self.means * precisions).T - 0.5 * points**2 @ precisions.T
        )
        return densities

    def responsibilities(self, points: Array) -> Array:
        """(n, K) probability of each component at points (n, d)."""
        probabilities: Array = softmax(self.log_densities(points), axis=1)
        return probabilities

    def denoise(self, points: Array, alpha: float, sigma: float) -> Array:
        """(n, d) the posterior mean E[x | alpha x + sigma ε = z], the optimal denoiser.

        ``Σ_k r_k(z) [μ_k + alpha λ_k / n_k (z - alpha μ_k)]``, ``n_k = alpha² λ_k + sigma²``.
        """
        noised = self.noised(alpha, sigma)
        gains = alpha * self.variances / noised.variances
        means = self.means + gains * (points[:, None, :] - noised.means)
        estimate: Array = np.einsum("nk,nkd->nd", noised.responsibilities(points), means)
        return estimate

    def sample(self, num_samples: int, generator: np.random.Generator) -> Array:
        """(n, d) samples."""
        chosen = generator.choice(self.num_components, size=num_samples, p=self.weights)
        noise = generator.standard_normal((num_samples, self.dimension))
        samples: Array = self.means[chosen] + np.sqrt(self.variances[chosen]) * noise
        return samples
