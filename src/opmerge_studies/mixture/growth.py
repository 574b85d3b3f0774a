"""How composites of a mixture's DDIM steps outgrow its form, and what they do to errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from opmerge_studies.mixture.expectation import Nodes
from opmerge_studies.mixture.gaussian_mixture import GaussianMixture
from opmerge_studies.mixture.lifted import Training
from opmerge_studies.mixture.merging import MixtureProblem

__all__ = ["Gain", "composite_gain", "effective_paths", "gates_needed", "relative_floor"]

_STEP = 1e-5  # of a central difference of a smooth map
_TAILS = 5e-4  # mass on either side where the largest gain is not looked for

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """How much a map on the line stretches small differences: root mean square, and at most."""

    typical: float
    largest: float


def effective_paths(problem: MixtureProblem, start: int, stop: int) -> float:
    """How many affine maps the teacher's composite start → stop really mixes.

    Written out, the composite of m steps is a sum over K^m sequences of components, each an
    affine map weighted by the product of its responsibilities along the trajectory. The
    effective number is the exponential of the mean entropy of these weights over z_start, which
    is the sum of the entropies of the steps: 1 where every point has one component throughout.
    """
    nodes = problem.nodes[start]
    points, entropy = nodes.points, 0.0
    for step in problem.steps[stop:start][::-1]:
        entropy += float(nodes.weights @ entr(step.gate.responsibilities(points)).sum(axis=1))
        points = step(points)
    return float(np.exp(entropy))


def relative_floor(problem: MixtureProblem, start: int, stop: int) -> float:
    """Floor of one student for the teacher's composite, over the standard deviation of z_stop."""
    training = problem.trainings[start - 1]
    target = problem.composite(start, stop, problem.nodes[start].points)
    initial = problem.steps[start - 1].weights
    floor = training.train(initial, target).floor
    return floor / _deviation(target, problem.nodes[start].weights)


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
    enough = tolerance * _deviation(target, nodes.weights)
    for count in range(1, most + 1):
        training = Training(_even_gates(nodes, count), nodes, None)
        initial = np.zeros((training.features.shape[1], 1))
        if training.train(initial, target).floor <= enough:
            return count
    return None


def composite_gain(problem: MixtureProblem, start: int, stop: int) -> Gain:
    """Gain of the teacher's composite over z_start, in one dimension.

    The largest is over the central 99.9 % of z_start.
    """
    nodes = problem.nodes[start]
    ends = [problem.composite(start, stop, nodes.points + step) for step in (_STEP, -_STEP)]
    slopes = np.abs(ends[0] - ends[1])[:, 0] / (2 * _STEP)
    mass = np.cumsum(nodes.weights)
    central = (mass > _TAILS) & (mass < 1 - _TAILS)
    typical = np.sqrt(nodes.weights @ slopes**2)
    return Gain(float(typical), float(slopes[central].max()))


def _even_gates(nodes: Nodes, count: int) -> GaussianMixture:
    mass = np.cumsum(nodes.weights)
    places = np.interp((np.arange(count) + 0.5) / count, mass, nodes.points[:, 0])
    spacing = np.gradient(places) if count > 1 else np.ones(1)
    return GaussianMixture.of(places, spacing**2)


def _deviation(values: Array, weights: Array) -> float:
    centred = values - weights @ values
    return float(np.sqrt(weights @ (centred**2).sum(axis=1)))
