"""Students of several steps: what each step is worth, and where the steps should be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Self

from pydantic import model_validator

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import STRATEGIES, Plan
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, Objective, Positive, Rising, Some
from opmerge.spectra import resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import CANONICAL, PAPER_RULE, strategy_errors

_OBJECTIVES: tuple[Objective, ...] = ("teacher", "data")


class StudentsSettings(Settings):
    """Settings of the study."""

    sources: Some[str] = option(
        (
            *("eigenvalues:0.2", "eigenvalues:0.5", "eigenvalues:1", "eigenvalues:1.02"),
            *("eigenvalues:2", "eigenvalues:5", "digits"),
        ),
        "data, each as `resolve_spectrum` has them",
    )
    student_steps: Rising[Count] = option((1, 2, 4, 8), "K")
    merge_times: Rising[Positive] = option((1.0, DEFAULT_MERGE_TIME), "s")
    num_steps: Count = option(64, "T")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_steps <= self.student_steps[-1]:
            largest = f"the {self.num_steps} steps of the teacher, which errs by 0"
            raise InputError("student_steps", f"must be < {largest}", self.student_steps[-1])
        return self

    @classmethod
    def quick(cls) -> Self:
        """One λ on either side of 1 and digits, T = 32: seconds."""
        return cls(sources=("eigenvalues:0.5", "eigenvalues:5", "digits"), num_steps=32)


def run(settings: StudentsSettings, runner: Runner) -> dict[str, Any]:
    """Plan students of every number of steps: ``students``, a row a source, s, objective and K."""
    cells = grid(
        source=settings.sources,
        merge_time=settings.merge_times,
        objective=_OBJECTIVES,
        num_steps=[settings.num_steps],
        student_steps=settings.student_steps,
    )
    return {"tables": {"students": runner.sweep(plan_students, cells, "planning")}}


def plan_students(
    source: str, merge_time: float, objective: Objective, num_steps: int, student_steps: int
) -> dict[str, Any]:
    """The best K-step student beside the named strategies on uniform windows.

    ``moved`` is the best named strategy on the windows of the best plan, which tells what the
    boundaries are worth from what the merges inside them are; ``other`` is the best plan's W2 to
    what was not its objective.
    """
    spectrum, schedule = resolve_spectrum(source), cosine_schedule(num_steps)
    problem = Problem(spectrum, schedule, GradientFlow(merge_time), PAPER_RULE, objective)
    best = find_plan(problem, student_steps=student_steps)
    windows = list(pairwise(best.plan.boundaries))
    moved = [Plan(tuple(STRATEGIES[name](*each) for each in windows)) for name in CANONICAL]
    beside = replace(problem, objective="data" if objective == "teacher" else "teacher")
    return {
        "source": source,
        "merge_time": merge_time,
        "objective": objective,
        "student_steps": student_steps,
        "best": best.w2,
        "lower_bound": best.lower_bound,
        "planner": best.planner,
        **strategy_errors(problem, CANONICAL, student_steps),
        "moved": min(evaluate(problem, plan).w2 for plan in moved),
        "other": evaluate(beside, best.plan).w2,
        "teacher_to_data": problem.teacher_to_data,
        "boundaries": " ".join(map(str, best.plan.boundaries)),
        "kept_steps": sum(not tree.merges for tree in best.plan.students),
        "merges": len(best.plan.merges),
        "plan": plan_phrase(best.plan),
    }


_QUESTION = "How many steps should a student have, and where should they be?"
STUDY = Study(__name__, _QUESTION, StudentsSettings, run)
