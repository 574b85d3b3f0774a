"""Which student does a budget buy, and is its forecast true?

One teacher is trained (or loaded) and its table measured. For every number of student steps and
every budget, hand plans, each with its best split, and the planner's plan are trained to the same
total cost, once a seed, as `opmerge distill` trains them; what each leaves stands beside what was
forecast of it. The seeds vary what students are trained on; the teacher, and the noise from which
student and teacher are compared, are the same throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.forecast import Forecast
from opmerge.plans import Plan, build_strategy
from opmerge.settings.base import Settings, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import LinearPartChoice, OptimizationConfig
from opmerge.settings.networks import TeacherConfig
from opmerge.settings.types import (
    AtLeastTwo,
    Budget,
    Count,
    Distinct,
    NonNegative,
    Positive,
    Rising,
    read_budget,
)
from opmerge_studies.shared import Runner, Study

if TYPE_CHECKING:
    from opmerge_studies.budgets.execution import Spent

PLANNED = "planner"
"""The name of the plan that the planner finds for a budget."""

HAND_PLANS = (
    *("vanilla", "boot", "progressive", "consistency"),
    *("uniform:4", "uniform:8", "temporal:8", "hybrid:16"),
)


class BudgetsSettings(Settings):
    """Settings of the study."""

    source: str = option("digits", "the data: digits, patches, a file or a folder")
    source_options: SourceOptions = option(SourceOptions(), "how images are cut")
    labels: str | None = option(
        None,
        "classes of the samples, for Fréchet distances in features of a classifier: a .npy file of "
        "integers, or the .npz file of images that has them; digits have their own",
    )
    guidance_scale: NonNegative | None = option(
        None,
        "of a teacher that is told the classes, at two evaluations a step; 1 tells them alone, and "
        "by default nothing is told",
    )
    vae: str | None = option(
        None, "a saved autoencoder whose latents the data are: students are measured decoded, too"
    )
    teacher: TeacherConfig = option(
        TeacherConfig(network="mlp", num_iterations=6000), "what teacher is trained"
    )
    teacher_folder: str | None = option(None, "a saved teacher, to be loaded instead")
    steps: AtLeastTwo = option(32, "T")
    student_steps: Distinct[Count] = option((1, 2, 4), "K")
    budgets: Rising[Positive] = option((5e5, 2e6, 8e6), "network evaluations of a training")
    plans: Distinct[str] = option(HAND_PLANS, "hand plans: strategies, those that are distinct")
    splits: Distinct[Literal["law", "length", "even"]] = option(
        ("law",),
        "of a hand plan's budget over its merges: the best under the law, N ∝ length^1.75, or as "
        "many iterations for each",
    )
    law: Literal["prior", "probes"] = option(
        "prior", "what is known of the kind of network, or fitted to probes of this one"
    )
    calibration_budget: Budget = option(
        "5e5", "network evaluations of the probes, which no plan's budget pays for"
    )
    seeds: Distinct[int] = option(
        (0, 1, 2), "of the distillation's batches; each plan is trained with each"
    )
    learning_rate: Positive | None = option(
        None, "of the students; by default what `opmerge run` takes without a pilot"
    )
    linear_part: LinearPartChoice = option("auto", "of the students: solve, train or auto")
    target_reuse: Count | Literal["auto"] = option("auto", "times that a target is learned from")
    optimization: OptimizationConfig = option(
        OptimizationConfig(), "how students are trained; its seed and learning rate are not used"
    )
    num_samples: Annotated[int, Field(ge=4)] = option(
        2000, "samples from equal noise by which a student is measured"
    )
    with_run: bool = option(
        True, "also spend each budget as `opmerge run` does, calibration and pilot paid from it"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for count in self.student_steps:
            for name in self.plans:
                build_strategy(name, self.steps, count)
        if read_budget(self.calibration_budget)[1] != "evaluations":
            requirement = "must be network evaluations, as the other budgets are"
            raise InputError("calibration_budget", requirement, self.calibration_budget)
        if self.guidance_scale is not None and self.known_labels is None:
            requirement = "must come with the classes that the teacher is told"
            raise InputError("guidance_scale", requirement, self.guidance_scale, "set labels")
        is_trained = self.guidance_scale not in (None, 1) and self.teacher_folder is None
        if is_trained and not self.teacher.label_dropout:
            raise InputError(
                "guidance_scale",
                "must be of a teacher that also knows no class",
                self.guidance_scale,
                "set teacher.label_dropout=0.1",
            )
        if self.optimization.learning_rate != OptimizationConfig().learning_rate:
            raise InputError(
                "optimization.learning_rate",
                "is not used here",
                self.optimization.learning_rate,
                "set learning_rate instead",
            )
        return self

    @property
    def known_labels(self) -> str | None:
        """The labels that are given, or those that the data have."""
        return "digits" if self.labels is None and self.source == "digits" else self.labels

    @classmethod
    def quick(cls) -> Self:
        """A demonstration of a few minutes on two cores: T = 16, few plans, one seed."""
        return cls(
            teacher=TeacherConfig(network="mlp", num_iterations=3000),
            steps=16,
            student_steps=(1, 2),
            budgets=(1e5, 4e5),
            plans=("vanilla", "boot", "progressive", "uniform:4"),
            seeds=(0,),
            num_samples=1000,
        )


@dataclass(frozen=True)
class Contender:
    """A plan with its iterations for a budget, by all names that it has.

    Args:
        budget, cost: network evaluations; the cost is below the budget by less than an iteration
            of a merge.
        iterations: one a merge, in the order of execution.
    """

    names: tuple[str, ...]
    student_steps: int
    budget: float
    plan: Plan
    iterations: tuple[int, ...]
    cost: float
    forecast: Forecast

    @property
    def label(self) -> str:
        """The first name: a hand plan's, if it is one."""
        return self.names[0]

    @property
    def is_planned(self) -> bool:
        """Whether it is the planner's."""
        return PLANNED in self.names

    @property
    def is_hand(self) -> bool:
        """Whether it is a hand plan's."""
        return self.names != (PLANNED,)


def run(settings: BudgetsSettings, runner: Runner) -> dict[str, Any]:
    """Train, plan, distill and measure; what the folder holds of an interrupted run is kept.

    The folder holds ``teacher/``, ``calibration/``, a file in ``cells/`` for each student that is
    finished, by all that it depends on, and ``spent/``. Students are shared out over workers.

    Returns:
        ``tables``: ``cells`` (a plan, K, budget and seed each), ``spent``, ``agreement``,
        ``regret`` and ``reversed``; ``plans`` with their iterations; ``knowledge``.

    Raises:
        InputError: if settings, data and teacher do not fit together, or a budget is too small.
    """
    from opmerge_studies.budgets.agreement import agreement_rows, regret_rows
    from opmerge_studies.budgets.contenders import contenders
    from opmerge_studies.budgets.execution import Execution

    with runner.progress(f"looking through {settings.source}", None) as report:
        source = open_source(settings.source, settings.source_options, report)
    execution = Execution(settings, source, runner)
    knowledge = execution.knowledge
    field = [
        each for count in settings.student_steps for each in contenders(settings, count, execution)
    ]
    cells = execution.train(field)
    rows = [
        cell_row(contender, seed, cell)
        for contender, of_seeds in zip(field, cells, strict=True)
        for seed, cell in zip(settings.seeds, of_seeds, strict=True)
    ]
    spent = [_spent_row(each) for each in execution.spend()] if settings.with_run else []
    agreement, reversed_pairs = agreement_rows(field, cells, settings.seeds, knowledge.law.scatter)
    return {
        "network": execution.description(),
        "knowledge": knowledge.to_dict(),
        "plans": [_plan_entry(each) for each in field],
        "tables": {
            "cells": rows,
            "spent": spent,
            "agreement": agreement,
            "regret": regret_rows(rows, spent),
            "reversed": reversed_pairs,
        },
    }


def cell_row(contender: Contender, seed: int, cell: dict[str, Any]) -> dict[str, Any]:
    """A cell of the record: what was forecast and what was measured."""
    expected, measured = contender.forecast, cell["measured"]
    return {
        "student_steps": contender.student_steps,
        "budget": contender.budget,
        "seed": seed,
        "plan": contender.label,
        "names": "; ".join(contender.names),
        "is_hand": contender.is_hand,
        "is_planned": contender.is_planned,
        "merges": len(contender.plan.merges),
        "iterations": sum(contender.iterations),
        "cost": contender.cost,
        "seconds": cell["seconds"],
        **_interval("forecast", expected.rms, expected.low, expected.high),
        **_interval("measured", measured["value"], measured["low"], measured["high"]),
        "sliced_w2": cell["sliced_w2"],
        "frechet": cell["frechet"],
    }


def _spent_row(spent: Spent) -> dict[str, Any]:
    """What a run made of a budget."""
    trained, expected, measured = spent.trained, spent.trained.forecast, spent.trained.measured
    assert expected is not None, "the law holds for the plan of a run"
    return {
        "student_steps": spent.student_steps,
        "budget": spent.budget,
        "seed": spent.seed,
        "free_step": trained.plan.free_step,
        "merges": len(trained.plan.merges),
        "iterations": sum(trained.iterations),
        "learning_rate": spent.learning_rate,
        "cost": trained.cost,
        "planning": spent.planning,
        "seconds": trained.seconds,
        **_interval("forecast", expected.rms, expected.low, expected.high),
        **_interval("measured", measured.value, measured.low, measured.high),
    }


def _interval(name: str, value: float, low: Any, high: Any) -> dict[str, Any]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _plan_entry(contender: Contender) -> dict[str, Any]:
    """A plan as ``recorded_plan`` reads it, with its iterations in the order of execution."""
    plan = contender.plan
    free = {} if plan.free_step is None else {"free_step": plan.free_step}
    return {
        "student_steps": contender.student_steps,
        "budget": contender.budget,
        "plan": contender.label,
        "boundaries": list(plan.boundaries),
        "merge_list": [{"boundaries": list(merge.boundaries)} for merge in plan.merges],
        **free,
        "iterations": list(contender.iterations),
    }


_QUESTION = "Which student does a budget buy, and is its forecast true?"
STUDY = Study(__name__, _QUESTION, BudgetsSettings, run, trains_networks=True)
