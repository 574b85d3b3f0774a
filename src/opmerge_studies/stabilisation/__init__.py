"""Averaged weights and timestep mixing: do they move the transition or the best plan?

Sequentially, a merge waits until its children are done. Mixed (THEORY 9), every student starts
from the teacher and is drawn to the product of its children as they are at that moment:

    db_k/ds = -2 n_k (b_k - A … b_{k-1}(s) … A),

where student k has one earlier student among its children and teacher steps beside it, as in
vanilla, sequential BOOT and sequential consistency, and in every left comb. As a ratio to the
teacher's composite, u = b / P, this is a chain of filters, each following the one before:

    du_k/ds = r_k (u_{k-1} - u_k),    u_0 = 1,    r_k = 2 n_k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Annotated, Any, Self, get_args

import numpy as np
from pydantic import Field
from scipy.optimize import brentq
from scipy.special import gammaln, xlogy

from opmerge.arrays import Array
from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate, initial_coefficients
from opmerge.planners import find_plan
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, MergeRule, Positive, Rising, TeacherSteps
from opmerge.training import DEFAULT_MERGE_TIME, EMAFlow, GradientFlow, TrainingModel
from opmerge_studies.shared import Runner, Study, grid, rows_of
from opmerge_studies.shared.simulation import descent, train_plan
from opmerge_studies.shared.strategies import CANONICAL, cosine_problem, is_as_good, scalar_problem
from opmerge_studies.shared.transition import crossings, scan_points, sign_changes

SPECTRA: Mapping[str, tuple[float, ...]] = {
    "0.01 to 0.9": tuple(np.geomspace(0.01, 0.9, 12).tolist()),
    "0.01 to 20": tuple(np.geomspace(0.01, 20.0, 12).tolist()),
    "2.1 to 20": tuple(np.geomspace(2.1, 20.0, 6).tolist()),
    "1.2 alone": (1.2,),
    "1.05 to 1.6": (1.05, 1.1, 1.3, 1.6),
}
"""Eigenvalues by name: below the transition, across it, above it, and inside its band."""

CHAINS = ("boot", "consistency")  # of more than one merge; their students follow one another
_LARGEST_FACTOR = 2.0**20
_DEVIATIONS = 12.0  # of a Poisson count, beyond which its probability is rounding
_MARGIN = 60

Row = dict[str, Any]


class StabilisationSettings(Settings):
    steps: Rising[TeacherSteps] = option((16, 64, 128), "T")
    turnovers: Rising[Positive] = option(
        (2.0, 4.0, 8.0, 16.0, 32.0, 64.0), "time constants β s of the moving average in one merge"
    )
    iterations: Rising[Count] = option(
        (64, 256, 1024, 4096), "N of descent in a merge, whose average is simulated"
    )
    num_eigenvalues: Annotated[int, Field(ge=10)] = option(
        120, "points in λ from 0.05 to 20 at which mixing is computed"
    )
    catch_up_eigenvalues: Rising[Positive] = option(
        (0.2, 0.5, 0.9, 1.0, 2.0, 5.0), "λ at which the time is sought that mixing needs to make up"
    )
    comb_steps: Annotated[int, Field(ge=3, le=14)] = option(
        11, "T for which all combs are tried, mixed"
    )
    merge_time: Annotated[float, Field(gt=0, le=40)] = option(DEFAULT_MERGE_TIME, "s")

    @classmethod
    def quick(cls) -> Self:
        return cls(
            steps=(16, 64),
            turnovers=(2.0, 8.0, 32.0),
            iterations=(64, 256, 1024),
            num_eigenvalues=40,
            catch_up_eigenvalues=(0.2, 1.0, 5.0),
            comb_steps=8,
        )


def run(settings: StabilisationSettings, runner: Runner) -> dict[str, Any]:
    """Repeat the search for crossings and plans with averages, and with all steps trained at once.

    Tables ``ema_crossings``, ``ema_plans``, ``ema_simulation``; ``mixing`` (errors over λ),
    ``mixing_crossings``, ``mixing_time`` (how much longer mixing takes), ``mixing_combs``.
    """
    steps, rates = settings.steps, settings.turnovers
    values = np.geomspace(0.05, 20.0, settings.num_eigenvalues).round(9).tolist()
    plain = {"num_steps": steps, "merge_time": settings.merge_time}
    ruled = {**plain, "merge_rule": get_args(MergeRule)}
    simulated = {**plain, "num_steps": steps[0], "turnovers": rates[len(rates) // 2]}
    averaged = grid(**plain, turnovers=(None, *rates))
    planned = grid(**plain, turnovers=rates, spectrum=SPECTRA)
    descents = grid(**simulated, num_iterations=settings.iterations, strategy=CANONICAL)
    mixed = grid(**ruled, eigenvalues=[values])
    targets = {"strategy": CHAINS, "turnovers": (None, rates[-1])}
    made_up = grid(**ruled, **targets, eigenvalue=settings.catch_up_eigenvalues)
    combs = grid(**{**ruled, "num_steps": settings.comb_steps}, eigenvalues=[values])
    sweep, rows = runner.sweep, runner.rows
    return {
        "tables": {
            "ema_crossings": sweep(ema_crossings, averaged, "finding crossings"),
            "ema_plans": sweep(ema_plan, planned, "planning with averages"),
            "ema_simulation": sweep(ema_simulation, descents, "simulating averages"),
            "mixing": rows(mixing_errors, mixed, "mixing timesteps"),
            "mixing_crossings": sweep(mixing_crossings, grid(**plain), "crossings of mixing"),
            "mixing_time": sweep(mixing_time, made_up, "catching up"),
            "mixing_combs": rows(mixing_combs, combs, "trying all combs"),
        }
    }


def ema_crossings(num_steps: int, merge_time: float, turnovers: float | None) -> Row:
    """The crossings of BOOT and vanilla with averaged weights, and with flow as long as counts.

    ``effective_time`` is the s of flow that leaves the same retention at n_T = 1.
    """
    training = _training(merge_time, turnovers)
    retention = float(training.retention(np.ones(1))[0])
    effective = -0.5 * float(np.log(retention))
    places = crossings(num_steps, training)
    shorter = crossings(num_steps, GradientFlow(effective))
    return {
        "num_steps": num_steps,
        "turnovers": turnovers,
        "retention": retention,
        "effective_time": effective,
        "num_crossings": len(places),
        "first_crossing": places[0] if places else None,
        "last_crossing": places[-1] if places else None,
        "crossing_of_shorter_flow": shorter[0] if shorter else None,
    }


def ema_plan(num_steps: int, merge_time: float, turnovers: float, spectrum: str) -> Row:
    """The best plan with and without averaged weights, and what it costs to mistake one's plan.

    ``regret`` is the error, with averages, of the plan that is best without, relative to the best;
    ``gap`` bounds what any plan could be better than the best found.
    """
    flow = cosine_problem(SPECTRA[spectrum], num_steps, GradientFlow(merge_time))
    averaged = replace(flow, training=_training(merge_time, turnovers))
    without, with_average = find_plan(flow), find_plan(averaged)
    mistaken = evaluate(averaged, without.plan).w2
    return {
        "num_steps": num_steps,
        "spectrum": spectrum,
        "turnovers": turnovers,
        "w2_without": without.w2,
        "w2": with_average.w2,
        "gap": with_average.gap,
        "regret": mistaken / with_average.w2 - 1.0,
        "same_plan": without.plan == with_average.plan,
        "merges_without": len(without.plan.merges),
        "merges": len(with_average.plan.merges),
        "plan": plan_phrase(with_average.plan),
    }


def ema_simulation(
    num_steps: int, merge_time: float, turnovers: float, num_iterations: int, strategy: str
) -> Row:
    """Descent in N steps with the average kept, against the closed form of averaged flow.

    ``difference`` is the largest over λ, relative to the error of the whole student.
    """
    problem = cosine_problem((0.05, 0.5, 1.5, 5.0), num_steps, _training(merge_time, turnovers))
    decay = float(np.exp(-turnovers / num_iterations))
    averaged = descent(merge_time / num_iterations, num_iterations, decay=decay)
    plan = build_strategy(strategy, num_steps)
    ratio = train_plan(problem, plan, averaged).ratio(problem)[0]
    predicted = np.expm1(evaluate(problem, plan).excess)
    return {
        "num_steps": num_steps,
        "turnovers": turnovers,
        "num_iterations": num_iterations,
        "strategy": strategy,
        "difference": float(np.abs((ratio - 1.0) / predicted - 1.0).max()),
    }


def _training(merge_time: float, turnovers: float | None) -> TrainingModel:
    if turnovers is None:
        return GradientFlow(merge_time)
    return EMAFlow(merge_time, turnovers / merge_time)


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
            rates, initial = _chain(problem, tree, target_rate)
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


def _chain(problem: Problem, tree: Tree, target_rate: float | None) -> tuple[Array, Array]:
    """(K, d) rates and (K, d) initial u - 1 of the students of a tree, innermost first.

    With a ``target_rate`` every student but the last has its moving average behind it, 2K - 1.
    """
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
    if target_rate is None:
        return np.array(rates), np.array(starts)
    averaged = [each for rate in rates for each in (rate, np.full_like(rate, target_rate))]
    return np.array(averaged[:-1]), np.repeat(starts, 2, axis=0)[:-1]


def mixing_errors(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[Row]:
    """Relative error of the strategies at each λ, their merges in turn and all at once."""
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    plans = {name: build_strategy(name, num_steps) for name in ("vanilla", *CHAINS)}
    excess = {name: evaluate(problem, plan).excess for name, plan in plans.items()}
    excess |= {f"mixed_{name}": mixed_excess(problem, plans[name]) for name in CHAINS}
    errors = {name: np.abs(np.expm1(values))[::-1] for name, values in excess.items()}
    columns = {"eigenvalue": problem.eigenvalues[::-1], **errors}
    return rows_of(columns, num_steps=num_steps, merge_rule=merge_rule)


def mixing_crossings(num_steps: int, merge_time: float) -> Row:
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
    eigenvalue: float,
) -> Row:
    """How many times longer all merges must train at once to err as little as in turn.

    With ``turnovers`` targets read moving averages at the rate β = turnovers / s.
    """
    plan = build_strategy(strategy, num_steps)
    rate = None if turnovers is None else turnovers / merge_time
    problem = scalar_problem(eigenvalue, num_steps, merge_time, merge_rule)
    in_turn = _log_error(evaluate(problem, plan).excess)

    def lost(factor: float) -> float:
        """Log of the error at once, in so many times the time, over that in turn."""
        longer = replace(problem, training=GradientFlow(factor * merge_time))
        return _log_error(mixed_excess(longer, plan, rate)) - in_turn

    above = 1.0
    while lost(above) > 0 and above <= _LARGEST_FACTOR:
        above *= 1.5
    factor = 1.0 if above == 1.0 else None
    if 1.0 < above <= _LARGEST_FACTOR:
        factor = float(brentq(lost, above / 1.5, above))
    return {
        "num_steps": num_steps,
        "merge_rule": merge_rule,
        "strategy": strategy,
        "turnovers": turnovers,
        "eigenvalue": eigenvalue,
        "factor": factor,
        "error_ratio": float(np.exp(lost(1.0))),
        "merges": len(plan.merges),
    }


def _log_error(excess: Array) -> float:
    """Log of the relative error at the only eigenvalue."""
    return float(np.log(np.abs(np.expm1(excess[0]))))


def mixing_combs(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[Row]:
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
        **{f"best_{way}": [*map(best, errors)] for way, errors in ways.items()},
        **{f"merges_{way}": merges[errors.argmin(axis=1)] for way, errors in ways.items()},
    }
    return rows_of(columns, num_steps=num_steps, merge_rule=merge_rule, combs=len(combs))


_QUESTION = "Do weight averaging or timestep mixing shift the best plan?"
STUDY = Study(__name__, _QUESTION, StabilisationSettings, run)
