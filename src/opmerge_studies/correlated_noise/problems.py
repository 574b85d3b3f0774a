"""Problems whose noise does not commute with the data, what scalar theories see, and combs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.linalg import expm

from opmerge.arrays import Array
from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.planners.combs import cheapest_comb
from opmerge.plans import Plan, build_strategy
from opmerge.plans.tree import Tree
from opmerge.schedules import cosine_schedule
from opmerge.settings.types import MergeRule
from opmerge.training import GradientFlow
from opmerge_studies.shared.matrices import MatrixProblem

PLANE = {"below": (0.8, 0.1), "across": (2.0, 0.5), "above": (8.0, 3.0)}
"""Data variances in the plane, relative to λ = 1 and λ* ≈ 2."""

NOISE_RATIO = 2.0  # noise variances in the plane are this and its inverse
_SPREAD = 4.0  # noise variances in more dimensions: from 1/4 to 4, in random order
_ABOVE = 1.01  # λ* times this is where draws above it begin
_MAX_ITERATIONS = 100
_CLOSED = 1e-12  # a relative gap that is rounding
_LARGEST_LOGARITHM = 700.0


def scalar_theories(problem: MatrixProblem) -> dict[str, MatrixProblem]:
    """The theories of one scalar per direction, from the one that knows most.

    ``generalised``: the same μ, and of ``VᵀV`` of the frame V the diagonal alone; ``data_basis``:
    in the eigenbasis of Λ, of Σ the diagonal there alone; ``isotropic``: Σ replaced by a multiple
    of I of the same trace. The first two are exact where Λ and Σ commute.
    """
    data, noise = problem.data_covariance, problem.noise_covariance
    weights = np.sum(problem.frame**2, axis=0)
    variances, basis = np.linalg.eigh(data)
    along = np.sum(basis * (noise @ basis), axis=0)
    size = len(noise)
    covariances = {
        "generalised": (np.diag(problem.eigenvalues * weights), np.diag(weights)),
        "data_basis": (np.diag(np.maximum(variances, 0.0)), np.diag(along)),
        "isotropic": (data, np.trace(noise) / size * np.eye(size)),
    }
    return {
        name: replace(problem, data_covariance=data, noise_covariance=noise)
        for name, (data, noise) in covariances.items()
    }


class MatrixComb(NamedTuple):
    """The best comb, its paired error and what no comb goes below, to first order in ρ."""

    plan: Plan
    paired_error: float
    lower_bound: float


def matrix_comb(problem: MatrixProblem) -> MatrixComb:
    """The comb of least paired error where training leaves little (THEORY 7.7, 9).

    A comb trains the student at T alone, block k → i after block. In the frame V of the problem
    and to first order in the retention its deviation from the teacher is ``Diag(x) ρ_T``, with

        x = Σ over blocks of P(0, i) (1 - P(i, k)) P(k, T),

    one entry for each generalised eigenvalue, so its squared paired error is ``xᵀ K x`` with
    ``K = VᵀV ∘ (ρ_T N_T ρ_Tᵀ)``, positive semi-definite as a Schur product of such matrices. That
    is a convex function of sums over the edges of a path: Frank-Wolfe, each step a shortest path.

    Raises:
        InputError: for a merge rule other than operator copy.
    """
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy for combs", problem.merge_rule)
    root = problem.retentions[-1] @ problem.input_root
    form = problem.frame.T @ problem.frame * (root @ root.T)
    blocks = _blocks(problem.teacher.log_products)

    def error(position: Array) -> float:
        return float(position @ form @ position)

    def reached(tree: Tree) -> Array:
        return np.asarray(sum(blocks[merge.split, merge.stop] for merge in tree.merges))

    named = (build_strategy(name, problem.schedule.num_steps) for name in ("boot", "vanilla"))
    best = min((plan.students[0] for plan in named), key=lambda tree: error(reached(tree)))
    point, lower = reached(best), 0.0
    for _ in range(_MAX_ITERATIONS):
        gradient = 2.0 * form @ point
        tree = cheapest_comb(blocks @ gradient)[1]
        step = reached(tree) - point
        slope, curvature = float(gradient @ step), error(step)
        lower = max(lower, error(point) + slope)
        best = min(best, tree, key=lambda one: error(reached(one)))
        least = error(reached(best))
        if least - lower <= _CLOSED * least or curvature == 0.0:
            break
        point = point + min(1.0, max(0.0, -slope / (2.0 * curvature))) * step
    return MatrixComb(Plan((best,)), float(np.sqrt(least)), float(np.sqrt(lower)))


def _blocks(log_products: Array) -> Array:
    """(T, T, d) what the block k → i < k adds to x, at [k, i]."""
    above, below = log_products[:-1, None], log_products[None, :-1]
    inside, around = below - above, log_products[0] - below + above
    # no overflow where i >= k, which is no block
    inside, around = (np.minimum(each, _LARGEST_LOGARITHM) for each in (inside, around))
    return np.asarray(np.exp(around) * -np.expm1(inside))


def plane_problem(
    variances: tuple[float, float], angle: float, num_steps: int, merge_time: float
) -> MatrixProblem:
    """Two dimensions; the noise's axes are turned by an angle in degrees."""
    turn = _plane_rotation(np.radians(angle))
    noise = turn * (NOISE_RATIO, 1 / NOISE_RATIO) @ turn.T
    return _problem(np.diag(variances), noise, num_steps, merge_time)


def drawn_problem(
    case: str, num_steps: int, merge_time: float, merge_rule: MergeRule, seed: int
) -> MatrixProblem:
    """Two dimensions at random: noise variances e^±u, u up to 2, its axes at any angle.

    The generalised eigenvalues lie in (e⁻⁴, 1) for the case ``below`` and in (λ*, e⁴) for
    ``above``, on axes of any angle too.
    """
    rng = np.random.default_rng(seed)
    turn, inner = (_plane_rotation(angle) for angle in rng.uniform(0.0, np.pi, 2))
    root = turn * np.exp(rng.uniform(0.0, 1.0) * np.array([1.0, -1.0])) @ turn.T
    threshold = 1 + 1 / np.cos(np.pi / 2 / num_steps)
    low, high = (-4.0, 0.0) if case == "below" else (np.log(_ABOVE * threshold), 4.0)
    data = root @ (inner * np.exp(rng.uniform(low, high, 2))) @ inner.T @ root
    return replace(_problem(data, root @ root, num_steps, merge_time), merge_rule=merge_rule)


def rotated_problem(
    num_dimensions: int, angle: float, num_steps: int, merge_time: float, seed: int
) -> MatrixProblem:
    """Data variances from 0.05 to 20, noise variances of mean 1 turned along a random geodesic."""
    rng = np.random.default_rng(seed)
    turn = geodesic_rotation(num_dimensions, angle, rng)
    noise = rng.permutation(np.geomspace(1 / _SPREAD, _SPREAD, num_dimensions))
    data = np.diag(np.geomspace(20.0, 0.05, num_dimensions))
    return _problem(data, turn * (noise / noise.mean()) @ turn.T, num_steps, merge_time)


def digits_problem(correlation: float, num_steps: int, merge_time: float) -> MatrixProblem:
    """Digits under noise of variance 1 whose pixels k rows and columns apart correlate by ρᵏ."""
    side = range(round(digits_samples().shape[1] ** 0.5))
    along: Array = np.float64(correlation) ** np.abs(np.subtract.outer(side, side))
    data = np.cov(digits_samples().T, bias=True)
    return _problem(data, np.asarray(np.kron(along, along)), num_steps, merge_time)


@cache
def digits_samples() -> Array:
    """(1797, 64) digits, centred."""
    samples = np.concatenate(list(open_source("digits").batches()))
    return np.asarray(samples - samples.mean(axis=0))


def geodesic_rotation(num_dimensions: int, angle: float, rng: np.random.Generator) -> Array:
    """(d, d) ``exp(θ K)``, K skew and random of spectral norm 1: no vector turns further than θ.

    The angle θ is in degrees.
    """
    matrix = rng.standard_normal((num_dimensions, num_dimensions))
    skew = matrix - matrix.T
    return np.asarray(expm(np.radians(angle) * skew / np.linalg.norm(skew, 2)))


def _plane_rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _problem(data: Array, noise: Array, num_steps: int, merge_time: float) -> MatrixProblem:
    return MatrixProblem(data, noise, cosine_schedule(num_steps), GradientFlow(merge_time))
