"""Timestep mixing: the students of a plan trained all at once, against moving targets (THEORY 9).

Sequentially, a merge waits until its children are done. Mixed, every student starts from the
teacher and is drawn to the product of its children as they are at that moment:

    db_k/ds = -2 n_k (b_k - A … b_{k-1}(s) … A),

where student k has one earlier student among its children and teacher steps beside it, as in
vanilla, sequential BOOT and sequential consistency, and in every left comb. As a ratio to the
teacher's composite, u = b / P, this is a chain of filters, each following the one before:

    du_k/ds = r_k (u_{k-1} - u_k),    u_0 = 1,    r_k = 2 n_k.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.merging import initial_coefficients
from opmerge.plans import Plan, Tree
from opmerge.problem import Problem
from opmerge.training import GradientFlow

_DEVIATIONS = 12.0  # of a Poisson count, beyond which its probability is rounding
_MARGIN = 60

Array = NDArray[np.float64]


def mixed_excess(problem: Problem, plan: Plan, target_rate: float | None = None) -> Array:
    """(d,) excess e = log(b / P) of a plan all of whose merges are trained at once.

    Every student is given the time s of the problem's gradient flow for itself, a share 1/K of
    what the K merges would take one after the other. Students share no parameters. Each starts
    from the teacher's step at its own t: from that operator, or that denoiser (the merge rule).

    Args:
        plan: whose merges have at most one merged child each (progressive plans have two: their
            targets multiply students, and the equation is not linear).
        target_rate: β > 0 of moving averages of the students that targets read (EMA target
            networks), further filters of the chain; the students themselves are kept.

    Raises:
        InputError: for another training model, another kind of plan, another T or a rate <= 0.
    """
    if plan.num_steps != problem.num_steps:
        raise InputError(
            "plan", f"must have {problem.num_steps} steps, as the problem", plan.num_steps
        )
    if not isinstance(problem.training, GradientFlow):
        raise InputError("training", "must be gradient flow", problem.training.name)
    if target_rate is not None and check_number("target_rate", target_rate) <= 0:
        raise InputError("target_rate", "must be > 0", target_rate)
    excess = np.zeros_like(problem.eigenvalues)
    for tree in plan.students:
        if tree.merges:
            rates, initial = _chain(problem, tree)
            if target_rate is not None:
                rates, initial = _averaged(rates, initial, target_rate)
            excess = excess + np.log1p(chain_response(rates, initial, problem.training.time))
    return excess


def chain_response(rates: Array, initial: Array, time: float) -> Array:
    """(d,) last x_K(time) of the chain ``x_k' = r_k (x_{k-1} - x_k)``, ``x_0 = 0``.

    The exponential of the bidiagonal matrix M by uniformisation (Jensen 1953):
    ``e^{Ms} = Σ_k Poisson(k; q s) (1 + M/q)^k``, q the largest rate. Every weight is >= 0, so each
    is exact to relative precision, however small. ``rates`` r_k > 0 and ``initial`` are (K, d).
    """
    fastest = rates.max(axis=0)
    passed, kept = rates / fastest, (fastest - rates) / fastest
    jumps = time * fastest
    most = float(jumps.max()) + len(rates)
    state, response = initial.astype(np.float64), np.zeros(rates.shape[1])
    for count in range(int(most + _DEVIATIONS * np.sqrt(most)) + _MARGIN):
        probability = np.exp(xlogy(count, jumps) - jumps - gammaln(count + 1.0))  # Poisson's
        response = response + probability * state[-1]
        following = kept * state
        following[1:] += passed[1:] * state[:-1]
        state = following
    return response


def _chain(problem: Problem, tree: Tree) -> tuple[Array, Array]:
    """(K, d) rates and (K, d) initial u - 1 of the students of a tree, innermost first."""
    rates, starts, expected = [], [], list[tuple[int, int]]()
    for merge in tree.merges:
        children = pairwise(merge.boundaries)
        if [child for child in children if child[0] - child[1] > 1] != expected:
            raise InputError(
                "plan",
                "must have at most one merged child in each merge to be trained all at once",
                list(merge.boundaries),
            )
        expected = [(merge.start, merge.stop)]
        rates.append(2.0 * problem.teacher.variances[merge.start])
        starts.append(initial_coefficients(problem, merge.start, merge.start - 1, merge.stop)[0])
    return np.array(rates), np.array(starts)


def _averaged(rates: Array, initial: Array, target_rate: float) -> tuple[Array, Array]:
    """The chain with a moving average after every student but the last, which starts with it."""
    averages = np.full_like(rates, target_rate)
    joined = np.stack([rates, averages], axis=1).reshape(-1, rates.shape[1])[:-1]
    return joined, np.repeat(initial, 2, axis=0)[:-1]
