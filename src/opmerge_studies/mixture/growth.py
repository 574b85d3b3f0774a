"""How composites of a mixture's DDIM steps outgrow its form, and what they do to errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from opmerge_studies.mixture.laws import GaussianMixture, Nodes
from opmerge_studies.mixture.merging import MixtureProblem, nearest_floor

_STEP = 1e-5  # of a central difference of a smooth map
_TAILS = 5e-4  # mass on either side where the largest gain is not looked for

Array = NDArray[np.float64]


def effective_paths(problem: MixtureProblem, start: int, stop: int) -> float:
    """How many affine maps the teacher's composite start → stop really mixes.

    Written out, the composite of m steps is a sum over K^m sequences of components, each an
    affine map weighted by the product of its responsibilities along the trajectory. The
    effective number is the exponential of the mean entropy of these weights over z_start, which
    is the sum of the entropies of the steps: 1 where every point has one component throughout.
    """
    points, entropy = problem.nodes[start].points, 0.0
    for step in problem.steps[stop:start][::-1]:
        entropies = entr(step.gate.responsibilities(points)).sum(axis=1)
        entropy += float(problem.nodes[start].weights @ entropies)
        points = step(points)
    return float(np.exp(entropy))


def relative_floor(problem: MixtureProblem, start: int, stop: int) -> float:
    """Floor of one student for the teacher's composite, over the standard deviation of z_stop."""
    nodes, first = problem.nodes[start], problem.steps[start - 1]
    target = problem.composite(start, stop, nodes.points)
    _, floor, _ = problem.trainings[start - 1].train(first.weights, target)
    return floor / _deviation(target, nodes)


def gates_needed(
    problem: MixtureProblem, start: int, stop: int, tolerance: float, most: int
) -> int | None:
    """Fewest affine pieces of a student with free gates whose floor is within tolerance.

    The gates are responsibilities of equal Gaussians at the quantiles of z_start, as wide as they
    are apart, instead of the data's own; one dimension.

    Args:
        problem: in one dimension.
        start, stop: the composite.
        tolerance: largest floor over the standard deviation of the target.
        most: None is returned if more gates are needed.
    """
    nodes = problem.nodes[start]
    target = problem.composite(start, stop, nodes.points)
    enough = tolerance * _deviation(target, nodes)
    counts = range(1, most + 1)
    return next(
        (c for c in counts if nearest_floor(_gates(nodes, c), nodes, target) <= enough), None
    )


def composite_gain(problem: MixtureProblem, start: int, stop: int) -> tuple[float, float]:
    """How much the teacher's composite stretches small differences over z_start, on the line.

    Returns:
        The root mean square of its slope, and the largest slope over the central 99.9 %.
    """
    nodes = problem.nodes[start]
    ends = [problem.composite(start, stop, nodes.points + step) for step in (_STEP, -_STEP)]
    slopes = np.abs(ends[0] - ends[1])[:, 0] / (2 * _STEP)
    mass = np.cumsum(nodes.weights)
    central = (mass > _TAILS) & (mass < 1 - _TAILS)
    return float(np.sqrt(nodes.weights @ slopes**2)), float(slopes[central].max())


def _gates(nodes: Nodes, count: int) -> GaussianMixture:
    mass = np.cumsum(nodes.weights)
    places = np.interp((np.arange(count) + 0.5) / count, mass, nodes.points[:, 0])
    spacing = np.gradient(places) if count > 1 else np.ones(1)
    return GaussianMixture(places, spacing**2)


def _deviation(values: Array, nodes: Nodes) -> float:
    """Standard deviation of values (n, d) at the nodes."""
    return nodes.distance(values, nodes.weights @ values)
