"""Students of several steps: what each step is worth, and where the steps should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import STRATEGIES, Plan
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Objective, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import resolve_spectrum
from opmerge.studies.runner import Runner
from opmerge.studies.strategies import CANONICAL, strategy_errors
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow

__all__ = ["Config", "plan_students", "run"]

_OBJECTIVES: tuple[Objective, ...] = ("teacher", "data")


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        sources: data, each as ``resolve_spectrum`` has them.
        student_steps: K, ascending.
        merge_times: s, ascending.
        num_steps: T.

    Raises:
        InputError: naming the setting that is out of range.
    """

    sources: tuple[str, ...] = (
        *("eigenvalues:0.2", "eigenvalues:0.5", "eigenvalues:1", "eigenvalues:1.02"),
        *("eigenvalues:2", "eigenvalues:5", "digits"),
    )
    student_steps: tuple[int, ...] = (1, 2, 4, 8)
    merge_times: tuple[float, ...] = (1.0, DEFAULT_MERGE_TIME)
    num_steps: int = 64

    def __post_init__(self) -> None:
        for key in ("student_steps", "merge_times"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        if not self.sources:
            raise InputError("sources", "must not be empty")
        for time in self.merge_times:
            GradientFlow(time)
        for count in self.student_steps:
            check_count("student_steps", count)
        if check_count("num_steps", self.num_steps) <= self.student_steps[-1]:
            largest = f"the {self.num_steps} steps of the teacher, which errs by 0"
            raise InputError("student_steps", f"must be < {largest}", self.student_steps[-1])

    @classmethod
    def quick(cls) -> Config:
        """One λ on either side of 1 and digits, T = 32: seconds."""
        return cls(sources=("eigenvalues:0.5", "eigenvalues:5", "digits"), num_steps=32)


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Plan students of every number of steps, towards the teacher and towards the data.

    Returns:
        ``tables``: ``students``, a row for each source, s, objective and K.
    """
    cells = [
        {
            "source": source,
            "merge_time": time,
            "objective": objective,
            "num_steps": config.num_steps,
            "student_steps": count,
        }
        for source in config.sources
        for time in config.merge_times
        for objective in _OBJECTIVES
        for count in config.student_steps
    ]
    return {"tables": {"students": runner.sweep(plan_students, cells, "planning")}}


def plan_students(
    source: str, merge_time: float, objective: Objective, num_steps: int, student_steps: int
) -> dict[str, Any]:
    """The best K-step student beside the named strategies on uniform windows.

    ``moved`` is the best named strategy on the windows of the best plan, which tells what the
    boundaries are worth from what the merges inside them are; ``other`` is the best plan's W2 to
    what was not its objective.
    """
    problem = Problem(
        resolve_spectrum(source),
        cosine_schedule(num_steps),
        GradientFlow(merge_time),
        objective=objective,
    )
    best = find_plan(problem, student_steps=student_steps)
    uniform = strategy_errors(problem, CANONICAL, student_steps)
    moved = _on_windows(problem, best.plan.boundaries)
    beside = replace(problem, objective="data" if objective == "teacher" else "teacher")
    return {
        "source": source,
        "merge_time": merge_time,
        "objective": objective,
        "student_steps": student_steps,
        "best": best.w2,
        "lower_bound": best.lower_bound,
        "planner": best.planner,
        **uniform,
        "moved": moved,
        "other": evaluate(beside, best.plan).w2,
        "teacher_to_data": problem.teacher_to_data,
        "boundaries": " ".join(map(str, best.plan.boundaries)),
        "kept_steps": sum(not tree.merges for tree in best.plan.students),
        "merges": len(best.plan.merges),
        "plan": plan_phrase(best.plan),
    }


def _on_windows(problem: Problem, boundaries: Sequence[int]) -> float:
    """The least W2 of the named strategies, applied in each window."""
    plans = [
        Plan(tuple(STRATEGIES[name](start, stop) for start, stop in pairwise(boundaries)))
        for name in CANONICAL
    ]
    return min(evaluate(problem, plan).w2 for plan in plans)
