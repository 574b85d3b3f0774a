"""The record of a planning run, plain JSON: pages, tables and programs read it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from opmerge.clock import TimeUpError
from opmerge.merging import Outcome, evaluate
from opmerge.planners.allocation import allocate
from opmerge.planners.result import PlannerResult
from opmerge.plans.codec import PlanFile
from opmerge.plans.strategies import build_strategy
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.versions import versions

FORMAT = "opmerge.record"
VERSION = 1

_SPLIT_TOLERANCE = 1e-3  # relative, of a W2 that is shown beside others
_LARGEST_SPLIT = 80_000  # T (d + 200) up to which a plan is split in a second or so


def compare_strategies(
    problem: Problem, names: Sequence[str], student_steps: int = 1
) -> dict[str, Outcome]:
    """Evaluate the named strategies side by side."""
    return {
        name: evaluate(problem, build_strategy(name, problem.num_steps, student_steps))
        for name in names
    }


def evaluate_in_time(problem: Problem, plans: Iterable[tuple[str, Plan]]) -> dict[str, Outcome]:
    """Plans by name, evaluated; as many as there is time for."""
    outcomes = {}
    with suppress(TimeUpError):
        for name, plan in plans:
            outcomes[name] = evaluate(problem, plan)
    return outcomes


def problem_settings(problem: Problem, student_steps: int = 1) -> dict[str, Any]:
    """All settings as used: data, schedule, training, merge rule, objective."""
    spectrum = problem.spectrum
    return {
        "source": spectrum.source,
        "scaling": spectrum.scaling,
        "sample_shape": list(spectrum.shape),
        "num_samples": spectrum.num_samples,
        "dimensions": int(spectrum.num_dimensions),
        "spectrum": spectrum.kind,
        "spectrum_sha256": spectrum.sha256,
        "steps": problem.num_steps,
        "student_steps": student_steps,
        "schedule": problem.schedule.to_dict(),
        "training": problem.training.to_dict(),
        "merge_rule": problem.merge_rule,
        "objective": problem.objective,
        "notes": [*spectrum.notes, *problem.schedule.notes],
    }


def prediction(outcome: Outcome) -> dict[str, float]:
    """``w2`` of a plan, and ``paired_rms`` (``predicted_error``) where that is another number."""
    w2, paired_rms = outcome.w2, outcome.predicted_error
    return {"w2": w2} if paired_rms == w2 else {"w2": w2, "paired_rms": paired_rms}


def equal_cost_distance(problem: Problem, outcome: Outcome, cost: float) -> float | None:
    """W2 of a plan whose merges share this many network evaluations of a sample, split best.

    Within 0.1 %. None where nothing is to be trained, where error does not decay exponentially
    with training, where the problem is so large that splits take minutes, or the time is up.
    """
    size = problem.num_steps * (len(problem.eigenvalues) + 200)
    if cost <= 0 or size > _LARGEST_SPLIT or not getattr(problem.training, "is_exponential", False):
        return None
    if not outcome.plan.merges:
        return outcome.w2
    try:
        return allocate(problem, outcome.plan, cost, tolerance=_SPLIT_TOLERANCE).w2
    except TimeUpError:
        return None


def plan_record(
    problem: Problem,
    result: PlannerResult,
    strategies: Mapping[str, Outcome],
    at_equal_cost: bool = True,
) -> dict[str, Any]:
    """The record of one planned problem, with named strategies beside the plan found.

    ``problem`` (settings), ``spectrum`` (distinct eigenvalues, descending, and their
    multiplicities), ``best``, ``strategies``, ``teacher`` and ``versions``. Every plan has its
    ``prediction``, and ``errors``: the squared W2 of each distinct eigenvalue, multiplicity
    included. Those are of merges trained alike, so that plans differ in cost; where it is known
    (``equal_cost_distance``), ``w2_at_equal_cost`` is the W2 with the best split of the network
    evaluations that the best plan takes when its merges are trained alike; that may be left out,
    because it takes seconds.
    """
    best, notes = result.outcome, [*result.notes]
    cost = best.plan.network_evaluations() if at_equal_cost else 0.0
    entry = _outcome_record(best, cost)
    timesteps = problem.schedule.timesteps  # of a diffusers schedule
    if timesteps is not None:  # which the students read
        entry["timesteps"] = [timesteps[tree.start - 1] for tree in best.plan.students]
    if best.floor:
        notes.append(
            f"training itself leaves an error of about {best.floor:.3g} over "
            f"{len(best.plan.merges)} merges, which W2 leaves out: with it a paired error of "
            f"{best.predicted_error:.3g} is expected"
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "problem": problem_settings(problem, best.plan.student_steps),
        "spectrum": {
            "eigenvalues": problem.distinct_eigenvalues.tolist(),
            "multiplicities": problem.distinct_multiplicities.tolist(),
        },
        "best": {
            **entry,
            "lower_bound": result.lower_bound,
            "gap": result.gap,
            "planner": result.planner,
            "seconds": result.seconds,
            **({"cut_short_after": result.seconds} if result.cut_short else {}),
            "notes": notes,
        },
        "strategies": [
            {
                "name": name,
                **_outcome_record(outcome, cost),
                "ratio_to_best": outcome.w2 / best.w2 if best.w2 > 0 else None,
            }
            for name, outcome in strategies.items()
        ],
        "teacher": {
            "w2_to_data": problem.teacher_to_data,
            "errors": problem.teacher_errors.tolist(),
        },
        "versions": versions(),
    }


def plan_file(result: PlannerResult) -> PlanFile:
    """The file of a plan: the problem that it is for, and what is predicted and proved of it."""
    problem, cut = result.outcome.problem, {"cut_short_after": result.seconds}
    return PlanFile(
        result.plan,
        problem.schedule,
        problem.training,
        problem.merge_rule,
        problem.objective,
        {
            **prediction(result.outcome),
            "lower_bound": result.lower_bound,
            "gap": result.gap,
            **(cut if result.cut_short else {}),
        },
        problem.spectrum.identity(),
    )


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its arrays: what ``opmerge plan --json`` prints, the plan apart."""

    def brief(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key not in ("errors", "merge_list")}

    return {
        "problem": record["problem"],
        "best": brief(record["best"]),
        "strategies": [brief(strategy) for strategy in record["strategies"]],
        "teacher": {"w2_to_data": record["teacher"]["w2_to_data"]},
        **{key: record[key] for key in ("budget", "ties", "frontier") if key in record},
    }


def _outcome_record(outcome: Outcome, cost: float) -> dict[str, Any]:
    plan, distance = outcome.plan, equal_cost_distance(outcome.problem, outcome, cost)
    return {
        **prediction(outcome),
        **({} if distance is None else {"w2_at_equal_cost": distance}),
        "merges": len(plan.merges),
        "network_evaluations": plan.network_evaluations(),
        "boundaries": list(plan.boundaries),
        **({} if plan.free_step is None else {"free_step": plan.free_step}),
        "errors": outcome.errors.tolist(),
        "merge_list": [
            {"boundaries": list(merge.boundaries), "share": float(share)}
            for merge, share in zip(plan.merges, outcome.error_shares(), strict=True)
        ],
    }
