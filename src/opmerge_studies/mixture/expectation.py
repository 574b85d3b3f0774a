"""Expectations as weighted sums over points: quadrature in one dimension, samples in more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule
from opmerge_studies.mixture.gaussian_mixture import GaussianMixture

__all__ = ["Nodes", "quadrature_nodes", "sampled_nodes", "weighted_distance", "weighted_w2"]

_REACH = 9.0  # standard deviations: what lies beyond is 2e-19 of a component
_DENSE = 0.025  # of the range: how wide the middle is in which nodes are even in z

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Nodes:
    """A law as points (n, d) with weights (n,) that sum to 1."""

    points: Array
    weights: Array


def quadrature_nodes(
    mixture: GaussianMixture, schedule: NoiseSchedule, num_nodes: int = 512
) -> tuple[Nodes, ...]:
    """Nodes of the laws of z_0 … z_T in one dimension, by the trapezoidal rule.

    On the whole line that rule converges exponentially for analytic integrands; a Gauss rule of
    each component would not see the other components' responsibilities turn. Between components
    far apart the teacher's map is almost a step, so nodes are denser in the middle: they are even
    in u, with ``z = mean + b sinh u``.

    Args:
        mixture: of the data, d = 1.
        schedule: of T steps.
        num_nodes: points over all components, up to 9 standard deviations of each.

    Raises:
        InputError: if d > 1 or there are fewer than 2 nodes.
    """
    if mixture.dimension != 1:
        raise InputError("mixture", "must have one dimension for quadrature", mixture.dimension)
    if check_count("num_nodes", num_nodes) < 2:
        raise InputError("num_nodes", "must be >= 2", num_nodes)
    return tuple(
        _trapezoid(mixture.noised(float(alpha), float(sigma)), num_nodes)
        for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)
    )


def sampled_nodes(
    mixture: GaussianMixture, schedule: NoiseSchedule, num_samples: int, seed: int
) -> tuple[Nodes, ...]:
    """Nodes of the laws of z_0 … z_T by common random numbers: one x_0 and one ε for all steps."""
    generator = np.random.default_rng(seed)
    data = mixture.sample(check_count("num_samples", num_samples), generator)
    noise = generator.standard_normal(data.shape)
    weights = np.full(num_samples, 1.0 / num_samples)
    return tuple(
        Nodes(alpha * data + sigma * noise, weights)
        for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)
    )


def weighted_distance(first: Array, second: Array, weights: Array) -> float:
    """Root mean square of ``first - second``, points (n, d) paired: at least their W2 distance."""
    return float(np.sqrt(weights @ ((first - second) ** 2).sum(axis=1)))


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
    """Evenly spaced in u, ``z = mean + b sinh u``."""
    spreads, centre = _REACH * np.sqrt(law.variances), float(law.mean[0])
    ends = np.array([(law.means - spreads).min(), (law.means + spreads).max()])
    width = _DENSE * float(ends[1] - ends[0])
    first, last = np.arcsinh((ends - centre) / width)
    places = np.linspace(first, last, num_nodes)
    points = (centre + width * np.sinh(places))[:, None]
    density = np.exp(law.log_densities(points)).sum(axis=1) * np.cosh(places)
    return Nodes(points, density / density.sum())
