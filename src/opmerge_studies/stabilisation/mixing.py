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

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, xlogy

from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate, initial_coefficients
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.problem import Problem
from opmerge.settings.types import MergeRule
from opmerge.training import GradientFlow
from opmerge_studies.shared import rows_of
from opmerge_studies.shared.strategies import cosine_problem, is_as_good, scalar_problem
from opmerge_studies.shared.transition import crossings, scan_points, sign_changes

CHAINS = ("boot", "consistency")
"""Strategies of more than one merge whose students follow one another."""

_DEVIATIONS = 12.0  # of a Poisson count, beyond which its probability is rounding
_MARGIN = 60
_LARGEST_FACTOR = 2.0**20

Array = NDArray[np.float64]


def mixed_excess(problem: Problem, plan: Plan, target_rate: float | None = None) -> Array:
    """(d,) excess e = log(b / P) of a plan all of whose merges are trained at once.

    Every student is given the time s of the training model for itself: of a total of K s, which
    the K merges would take one after the other, each has the share 1/K. Students share no
    parameters. Each starts from the teacher's step at its own t: from that operator, or from that
    denoiser (the merge rule).

    Args:
        problem: of gradient flow.
        plan: whose merges have at most one merged child each (progressive plans have two: their
            targets multiply students, and the equation is not linear).
        target_rate: β > 0 of moving averages of the students that targets read (EMA target
            networks), further filters of the chain; None if they read the students themselves,
            which are kept at the end either way.

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
    rates, starts = [], []
    expected: list[tuple[int, int]] = []
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


def mixing_errors(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """Relative error of the strategies at each λ, their merges in turn and all at once."""
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    plans = {name: build_strategy(name, num_steps) for name in ("vanilla", *CHAINS)}
    excess = {name: evaluate(problem, plan).excess for name, plan in plans.items()}
    excess |= {f"mixed_{name}": mixed_excess(problem, plans[name]) for name in CHAINS}
    errors = {name: np.abs(np.expm1(values)) for name, values in excess.items()}
    columns = {"eigenvalue": problem.eigenvalues, **errors}
    ascending = {name: values[::-1] for name, values in columns.items()}
    return rows_of(ascending, num_steps=num_steps, merge_rule=merge_rule)


def mixing_crossings(num_steps: int, merge_time: float) -> dict[str, Any]:
    """The window of λ in which mixed BOOT is as good as vanilla, as its error passes through 0.

    Two errors are equal where their difference or their sum changes sign.
    """
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))
    training, points = GradientFlow(merge_time), scan_points(num_steps)

    def errors(eigenvalues: Array) -> tuple[Array, Array]:
        problem = cosine_problem(eigenvalues, num_steps, training)
        mixed, in_turn = mixed_excess(problem, boot), evaluate(problem, vanilla).excess
        return np.expm1(mixed)[::-1], np.expm1(in_turn)[::-1]

    window = sorted(
        sign_changes(lambda values: np.subtract(*errors(values)), points)
        + sign_changes(lambda values: np.add(*errors(values)), points)
    )
    return {
        "num_steps": num_steps,
        "sequential_crossing": next(iter(crossings(num_steps, training)), None),
        "num_crossings": len(window),
        "window_from": window[0] if window else None,
        "window_to": window[-1] if window else None,
    }


def mixing_time(
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    strategy: str,
    turnovers: float | None,
    eigenvalues: Sequence[float],
) -> list[dict[str, Any]]:
    """How many times longer all merges must train at once to err as little as in turn.

    With ``turnovers`` targets read moving averages at the rate β = turnovers / s.
    """
    plan = build_strategy(strategy, num_steps)
    rate = None if turnovers is None else turnovers / merge_time
    rows = []
    for eigenvalue in eigenvalues:
        problem = scalar_problem(eigenvalue, num_steps, merge_time, merge_rule)
        in_turn = _log_error(evaluate(problem, plan).excess)

        def lost(factor: float, problem: Problem = problem, in_turn: float = in_turn) -> float:
            """Log of the error at once, in so many times the time, over that in turn."""
            longer = replace(problem, training=GradientFlow(factor * merge_time))
            return _log_error(mixed_excess(longer, plan, rate)) - in_turn

        above = 1.0
        while lost(above) > 0 and above <= _LARGEST_FACTOR:
            above *= 1.5
        factor = 1.0 if above == 1.0 else None
        if 1.0 < above <= _LARGEST_FACTOR:
            factor = float(brentq(lost, above / 1.5, above))
        rows.append(
            {
                "num_steps": num_steps,
                "merge_rule": merge_rule,
                "strategy": strategy,
                "turnovers": turnovers,
                "eigenvalue": eigenvalue,
                "factor": factor,
                "error_ratio": float(np.exp(lost(1.0))),
                "merges": len(plan.merges),
            }
        )
    return rows


def _log_error(excess: Array) -> float:
    """Log of the relative error at the only eigenvalue."""
    return float(np.log(np.abs(np.expm1(excess[0]))))


def mixing_combs(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """The best of all combs at each λ, their merges in turn and all at once.

    A comb trains the student at T alone, block after block.
    """
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    inner = range(num_steps - 2, 0, -1)
    combs = [
        Plan((Tree.chain(num_steps, (num_steps - 1, *chosen, 0)),))
        for count in range(len(inner) + 1)
        for chosen in combinations(inner, count)
    ]
    in_turn = np.abs([np.expm1(evaluate(problem, comb).excess) for comb in combs])
    at_once = np.abs([np.expm1(mixed_excess(problem, comb)) for comb in combs])
    places = {name: combs.index(build_strategy(name, num_steps)) for name in ("vanilla", "boot")}

    def best(errors: Array) -> str:
        """The named comb that errs as little as any, or ``neither``."""
        equal = (name for name, i in places.items() if is_as_good(errors[i], errors.min()))
        return next(equal, "neither")

    ways = {"in_turn": in_turn[:, ::-1].T, "at_once": at_once[:, ::-1].T}  # (λ, combs)
    merges = np.array([len(comb.merges) for comb in combs])
    columns = {
        "eigenvalue": problem.eigenvalues[::-1],
        "combs": np.full(len(problem.eigenvalues), len(combs)),
        **{f"best_{way}": [*map(best, errors)] for way, errors in ways.items()},
        **{f"merges_{way}": merges[errors.argmin(axis=1)] for way, errors in ways.items()},
    }
    return rows_of(columns, num_steps=num_steps, merge_rule=merge_rule)
