"""The record of a planning run, plain JSON: pages, tables and programs read it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opmerge.merging import Outcome, evaluate
from opmerge.planners.result import PlannerResult
from opmerge.plans.strategies import build_strategy
from opmerge.problem import Problem
from opmerge.versions import versions

FORMAT = "opmerge.record"
VERSION = 1


def compare_strategies(
    problem: Problem, names: Sequence[str], student_steps: int = 1
) -> dict[str, Outcome]:
    """Evaluate the named strategies side by side."""
    return {
        name: evaluate(problem, build_strategy(name, problem.num_steps, student_steps))
        for name in names
    }


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


def plan_record(
    problem: Problem, result: PlannerResult, strategies: Mapping[str, Outcome]
) -> dict[str, Any]:
    """The record of one planned problem, with named strategies beside the plan found.

    ``problem`` (settings), ``spectrum`` (distinct eigenvalues, descending, and their
    multiplicities), ``best``, ``strategies``, ``teacher`` and ``versions``. Every plan has its
    ``prediction``, and ``errors``: the squared W2 of each distinct eigenvalue, multiplicity
    included.
    """
    best, notes = result.outcome, [*result.notes]
    entry = _outcome_record(best)
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
            "notes": notes,
        },
        "strategies": [
            {
                "name": name,
                **_outcome_record(outcome),
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


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.plan
    return {
        **prediction(outcome),
        "merges": len(plan.merges),
        "network_evaluations": plan.network_evaluations(),
        "boundaries": list(plan.boundaries),
        "errors": outcome.errors.tolist(),
        "merge_list": [
            {"boundaries": list(merge.boundaries), "share": float(share)}
            for merge, share in zip(plan.merges, outcome.error_shares(), strict=True)
        ],
    }
