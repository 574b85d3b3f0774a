"""Mixtures of Gaussians, their noised laws, and expectations over these as weighted points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule

_REACH = 9.0  # standard deviations: what lies beyond is 2e-19 of a component
_DENSE = 0.025  # of the range: how wide the middle is in which nodes are even in z


class GaussianMixture:
    """The law ``Σ_k π_k N(μ_k, Diag(λ_k))`` in d dimensions, with K components.

    A covariance that all components share can be full: rotate to its eigenbasis, with which
    isotropic noise commutes. Components with different eigenbases are not covered.

    Args:
        means: (K, d), or (K,) in one dimension.
        variances: λ_k > 0, of the same shape.
        weights: (K,) π_k > 0, which sum to 1; equal unless told.

    Raises:
        InputError: for shapes that do not fit, or values out of range.
    """

    def __init__(
        self, means: ArrayLike, variances: ArrayLike, weights: ArrayLike | None = None
    ) -> None:
        arrays = (np.asarray(values, dtype=np.float64) for values in (means, variances))
        self.means, self.variances = (v[:, None] if v.ndim == 1 else v for v in arrays)
        count, self.dimension = self.means.shape
        self.num_components = count
        self.weights: Array = np.full(count, 1 / count) if weights is None else np.array(weights)
        if self.means.shape != self.variances.shape or self.weights.shape != (count,):
            shapes = self.means.shape, self.variances.shape, self.weights.shape
            raise InputError("mixture", "must have arrays of shapes (K, d), (K, d), (K,)", shapes)
        if self.weights.min() <= 0 or abs(self.weights.sum() - 1) > 1e-9:
            raise InputError("weights", "must be > 0 and sum to 1", self.weights.tolist())
        if self.variances.min() <= 0:
            raise InputError("variances", "must be > 0", float(self.variances.min()))

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
        return GaussianMixture(alpha * self.means, variances, self.weights)

    def log_densities(self, points: Array) -> Array:
        """(n, K) log of ``π_k N(z; μ_k, λ_k)`` at points (n, d)."""
        squares = (points[:, None, :] - self.means) ** 2 / self.variances
        exponents = 0.5 * (squares + np.log(2 * np.pi * self.variances)).sum(axis=2)
        return np.asarray(np.log(self.weights) - exponents)

    def responsibilities(self, points: Array) -> Array:
        """(n, K) probability of each component at points (n, d)."""
        return np.asarray(softmax(self.log_densities(points), axis=1))

    def sample(self, num_samples: int, generator: np.random.Generator) -> Array:
        """(n, d) samples."""
        chosen = generator.choice(self.num_components, size=num_samples, p=self.weights)
        noise = generator.standard_normal((num_samples, self.dimension))
        return np.asarray(self.means[chosen] + np.sqrt(self.variances[chosen]) * noise)


@dataclass(frozen=True, eq=False)
class Nodes:
    """A law as points (n, d) with weights (n,) that sum to 1."""

    points: Array
    weights: Array

    def distance(self, first: Array, second: Array) -> float:
        """Root mean square of ``first - second``, values (n, d) at the points: at least W2."""
        return float(np.sqrt(self.weights @ ((first - second) ** 2).sum(axis=1)))


def quadrature_nodes(
    mixture: GaussianMixture, schedule: NoiseSchedule, num_nodes: int = 512
) -> tuple[Nodes, ...]:
    """Nodes of the laws of z_0 … z_T in one dimension, by the trapezoidal rule.

    On the whole line that rule converges exponentially for analytic integrands; a Gauss rule of
    each component would not see the other components' responsibilities turn. Between components
    far apart the teacher's map is almost a step, so nodes are denser in the middle: they are even
    in u, with ``z = mean + b sinh u``, up to 9 standard deviations of every component.

    Raises:
        InputError: if d > 1.
    """
    if mixture.dimension != 1:
        raise InputError("mixture", "must have one dimension for quadrature", mixture.dimension)
    return tuple(
        _trapezoid(mixture.noised(float(alpha), float(sigma)), num_nodes)
        for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)
    )


def sampled_nodes(
    mixture: GaussianMixture, schedule: NoiseSchedule, num_samples: int, seed: int
) -> tuple[Nodes, ...]:
    """Nodes of the laws of z_0 … z_T by common random numbers: one x_0 and one ε for all steps."""
    generator = np.random.default_rng(seed)
    data = mixture.sample(num_samples, generator)
    noise = generator.standard_normal(data.shape)
    weights = np.full(num_samples, 1.0 / num_samples)
    return tuple(
        Nodes(alpha * data + sigma * noise, weights)
        for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)
    )


def weighted_w2(first: Array, second: Array, weights: Array) -> float:
    """Exact Wasserstein-2 distance of two laws on the line, points (n,) with shared weights.

    The quantile functions are steps; they are compared on the common refinement.
    """
    quantiles, masses = [], []
    for points in (first, second):
        order = np.argsort(points, kind="stable")
        quantiles.append(points[order])
        masses.append(np.cumsum(weights[order]))
    edges = np.unique(np.concatenate(masses))
    steps = [
        values[np.minimum(np.searchsorted(mass, edges), len(values) - 1)]
        for values, mass in zip(quantiles, masses, strict=True)
    ]
    return float(np.sqrt(np.diff(edges, prepend=0.0) @ (steps[0] - steps[1]) ** 2))


def _trapezoid(law: GaussianMixture, num_nodes: int) -> Nodes:
    spreads, centre = _REACH * np.sqrt(law.variances), float(law.mean[0])
    ends = np.array([(law.means - spreads).min(), (law.means + spreads).max()])
    width = _DENSE * float(ends[1] - ends[0])
    first, last = np.arcsinh((ends - centre) / width)
    places = np.linspace(first, last, num_nodes)
    points = (centre + width * np.sinh(places))[:, None]
    density = np.exp(law.log_densities(points)).sum(axis=1) * np.cosh(places)
    return Nodes(points, density / density.sum())
