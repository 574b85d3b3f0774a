"""Networks that were trained at known cost, and what linear theories predict for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from opmerge.arrays import Array
from opmerge.merging import evaluate
from opmerge.planners.allocation import allocate, merge_costs
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.training import GammaRates

STEPS = 32

PILOT: Mapping[tuple[str, int], float] = {
    ("boot", 400): 0.934,
    ("hybrid:8", 1000): 0.911,
    ("hybrid:4", 1600): 0.911,
    ("vanilla", 3200): 0.932,
    ("hybrid:8", 400): 1.19,
    ("progressive", 400): 1.40,
    ("vanilla", 400): 1.71,
    ("consistency", 400): 2.16,
}
"""Squared error of networks trained on digits for so many iterations a merge (THEORY 9): the
first four took the same time in all."""

SMALL_BUDGET, LARGE_BUDGET = 5e5, 2e6

AT_EQUAL_COST: Mapping[tuple[str, str, float], float] = {
    ("vanilla", "even", SMALL_BUDGET): 2.924,
    ("uniform:4", "length", SMALL_BUDGET): 2.084,
    ("vanilla", "even", LARGE_BUDGET): 2.035,
    ("boot", "even", LARGE_BUDGET): 1.731,
    ("boot", "length", LARGE_BUDGET): 1.739,
    ("progressive", "even", LARGE_BUDGET): 2.501,
    ("progressive", "length", LARGE_BUDGET): 1.185,
    ("uniform:4", "even", LARGE_BUDGET): 2.193,
    ("uniform:4", "length", LARGE_BUDGET): 1.146,
}
"""Paired error by plan, split and network evaluations in all (docs/findings.md, "What a split and
targets used again buy": one step, every target used once)."""

_BATCH, _UNIT = 128, 400  # of these networks; iterations that are one unit of time
_SPLIT_EXPONENT = 1.75  # of ``--budget_split length``

SPREAD = GammaRates(0.5, 12.0, 0.0, _UNIT, 3e-4, _UNIT, 3e-4)
"""The spread of rates that probes of a digits network gave, rounded; its unit is 400 iterations."""

LENGTH_LAW, LENGTH_EXPONENT = replace(SPREAD, shape=0.775, scale=3.87), 1.63
"""A fit to a dozen probes of single merges in which a jump j → i is learned at rates in proportion
to φ^-q, φ = π (j - i) / 2T: merges that are long learn slowly."""

Theory = Callable[[Plan, Array], float]


def theories(spread: Problem, flow: Problem) -> dict[str, Theory]:
    """W2 of a plan with (M,) times in units of 400 iterations, by theory.

    A merge that learns at φ^-q of the rates is one that is trained for φ^-q of the time.
    """
    by_length = replace(spread, training=LENGTH_LAW)

    def law(plan: Plan, times: Array) -> float:
        angles = 0.5 * np.pi * _lengths(plan) / plan.num_steps
        return evaluate(by_length, plan, times * angles**-LENGTH_EXPONENT).w2

    return {
        "spread_rates": lambda plan, times: evaluate(spread, plan, times).w2,
        "length_law": law,
        "gradient_flow": lambda plan, times: evaluate(flow, plan, times).w2,
    }


def check_pilot(spread: Problem, flow: Problem) -> list[dict[str, Any]]:
    """The networks of the pilot: squared errors, and that of the best split of what each cost."""
    rows = []
    for (name, iterations), measured in PILOT.items():
        plan, time = build_strategy(name, spread.num_steps), iterations / _UNIT
        cost, times = time * plan.network_evaluations(), np.full(len(plan.merges), time)
        predicted = {key: w2(plan, times) ** 2 for key, w2 in theories(spread, flow).items()}
        best = {"best_split": allocate(spread, plan, cost, tolerance=1e-3).w2 ** 2}
        key = {"plan": name, "iterations": iterations, "measured": measured}
        rows.append({**key, "evaluations": cost, **predicted, **best})
    return rows


def check_equal_cost(spread: Problem, flow: Problem) -> list[dict[str, Any]]:
    """Networks trained at two total costs, each with its split; and the best split of the same."""
    rows = []
    for (name, split, evaluations), measured in AT_EQUAL_COST.items():
        plan, cost = build_strategy(name, spread.num_steps), evaluations / (_BATCH * _UNIT)
        shares = _lengths(plan) ** (_SPLIT_EXPONENT if split == "length" else 0.0)
        times = shares * cost / float(merge_costs(plan) @ shares)
        predicted = {key: w2(plan, times) for key, w2 in theories(spread, flow).items()}
        best = {"best_split": allocate(spread, plan, cost, tolerance=1e-3).w2}
        key = {"plan": name, "split": split, "evaluations": evaluations, "measured": measured}
        rows.append({**key, **predicted, **best})
    return rows


def _lengths(plan: Plan) -> Array:
    """(M,) steps that each merge spans."""
    return np.array([merge.start - merge.stop for merge in plan.merges], dtype=np.float64)
