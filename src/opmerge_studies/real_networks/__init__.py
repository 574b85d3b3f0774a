"""Does the order of merge plans that the linear theory predicts hold for real networks?

One teacher is trained (or loaded); every plan is executed on it, at an equal budget or with equal
iterations a merge, once a seed. The seeds vary what students are trained on; the teacher, and the
noise from which student and teacher are compared, are the same throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from opmerge.arrays import Array
from opmerge.checks import check_count
from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.record import problem_settings
from opmerge.plans import Merge, Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import diffusers_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.networks import TeacherConfig
from opmerge.settings.types import AtLeastTwo, Distinct, read_budget
from opmerge.spectra import estimate_spectrum
from opmerge.training import training_from_dict
from opmerge_studies.real_networks.agreement import agreement_of
from opmerge_studies.shared import Runner, Study
from opmerge_studies.shared.strategies import CANONICAL

PLANNED = {"best": "spectrum", "best-calibrated": "calibrated"}
"""Among the plans of the study: those that the planner finds, and from which prediction."""

_PLANNED_LABELS = {"best": "planner's plan", "best-calibrated": "calibrated plan"}


class RealNetworksSettings(Settings):
    """Settings of the study."""

    source: str = option("digits", "the data: digits, patches, a file or a folder")
    source_options: SourceOptions = option(SourceOptions(), "how images are cut")
    teacher: TeacherConfig = option(TeacherConfig(network="mlp"), "what teacher is trained")
    teacher_folder: str | None = option(None, "a saved teacher, to be loaded instead")
    steps: AtLeastTwo = option(32, "T")
    plans: Distinct[str] = option(
        (*PLANNED, "vanilla", "progressive", "consistency", "boot", "hybrid:16", "hybrid:8"),
        "strategies; best for the planner's plan, and best-calibrated for its plan "
        "under the calibrated training model (left out without calibrate)",
    )
    seeds: Distinct[int] = option(
        (0, 1, 2), "of the distillation's batches; each plan is executed with each"
    )
    distillation: DistillationConfig = option(
        DistillationConfig(linear_part="train", target_reuse=1),
        "how each plan is executed; its own seed is not used",
    )
    num_samples: Annotated[int, Field(ge=4)] = option(
        2000, "samples from equal noise by which a student is measured"
    )
    calibrate: bool = option(
        True, "also predict with a training model that is fitted to the network"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.plans:
            if name not in PLANNED:
                build_strategy(name, self.steps)
        config, requirement = self.distillation, "must not be a time: a prediction needs iterations"
        if config.merge_seconds is not None:
            raise InputError("merge_seconds", requirement, config.merge_seconds)
        if config.budget is not None and read_budget(config.budget)[1] == "seconds":
            raise InputError("budget", requirement, config.budget)
        check_count("num_iterations", config.num_iterations)
        return self

    @classmethod
    def quick(cls) -> Self:
        """A demonstration of a few minutes on two cores: T = 16, few plans, one seed."""
        return cls(
            teacher=TeacherConfig(network="mlp", num_iterations=6000),
            steps=16,
            plans=(*PLANNED, "vanilla", "progressive", "consistency"),
            seeds=(0,),
            distillation=DistillationConfig(
                num_iterations=200, budget="1.2e6", linear_part="train", target_reuse=1
            ),
            num_samples=1000,
        )


@dataclass(frozen=True)
class Contender:
    """A plan of the comparison, by all names that were given to it."""

    plan: Plan
    names: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The strategy that it is, or the planner's name for it if it is none that was named."""
        return next((name for name in self.names if name not in PLANNED), self.names[0])

    @property
    def label(self) -> str:
        """The short name in words."""
        return _PLANNED_LABELS.get(self.short_name, self.short_name)


def contenders(names: Sequence[str], problems: Mapping[str, Problem]) -> list[Contender]:
    """The plans to be compared; names that stand for the same plan are joined.

    Names are strategies, and keys of ``PLANNED``, which count if their prediction was made;
    ``problems`` are by prediction.

    Raises:
        InputError: if there are fewer than two different plans.
    """
    names_of: dict[Plan, list[str]] = {}
    for name in names:
        if name not in PLANNED:
            plan = build_strategy(name, problems["spectrum"].num_steps)
        elif PLANNED[name] in problems:
            plan = find_plan(problems[PLANNED[name]]).plan
        else:
            continue
        names_of.setdefault(plan, []).append(name)
    if len(names_of) < 2:
        raise InputError("plans", "must be at least two different ones", ", ".join(names))
    return [Contender(plan, tuple(several)) for plan, several in names_of.items()]


def run(settings: RealNetworksSettings, runner: Runner) -> dict[str, Any]:
    """Train, distill and measure; go on where an interrupted run of the same settings stopped.

    The folder holds ``teacher/``, checkpoints, and ``cells/SEED-PLAN.json``, one for each plan
    and seed that is finished. Networks are trained one after the other.

    Raises:
        InputError: if settings, data and teacher do not fit together, or what the folder holds is
            of another run.
    """
    from opmerge_studies.real_networks.execution import Execution

    with runner.progress(f"looking through {settings.source}", None) as report:
        source = open_source(settings.source, settings.source_options, report)
    spectrum = estimate_spectrum(source)
    execution = Execution(settings, source, spectrum, runner)
    teacher = execution.teacher
    schedule = diffusers_schedule(teacher.scheduler_config, settings.steps)
    problem = Problem(spectrum, schedule, merge_rule=settings.distillation.merge_rule)
    problems, calibration = {"spectrum": problem}, None
    if settings.calibrate:
        calibration = execution.calibration()
        training = training_from_dict(calibration["training"])
        problems["calibrated"] = replace(problem, training=training)
    plans = contenders(settings.plans, problems)
    cells = execution.run(plans)
    entries = [
        _entry(plan, problems, execution.iterations(plan.plan), settings.distillation, own)
        for plan, own in zip(plans, cells, strict=True)
    ]
    as_used = settings.model_dump(mode="json", exclude={"source_options", "steps"})
    return {
        "problem": problem_settings(problem),
        "settings": {
            **as_used,
            "teacher": {} if settings.teacher_folder else as_used["teacher"],
            "source": source.name,
            "scaling": source.scaling,
            "parameters": sum(p.numel() for p in teacher.network.parameters()),
            "teacher_digest": teacher.digest,
            "spectrum_samples": spectrum.num_samples,
        },
        "spectrum": {
            "eigenvalues": problem.distinct_eigenvalues.tolist(),
            "multiplicities": problem.distinct_multiplicities.tolist(),
        },
        "seeds": list(settings.seeds),
        "predictions": {name: other.training.to_dict() for name, other in problems.items()},
        "plans": entries,
        "agreement": {kind: agreement_of(kind, entries) for kind in problems},
        "linearity": execution.linearity(),
        "calibration": calibration,
        "pictures": execution.pictures(),
    }


def _entry(
    contender: Contender,
    problems: Mapping[str, Problem],
    iterations: Mapping[Merge, int],
    config: DistillationConfig,
    cells: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What is predicted and what was measured of one plan.

    Training models are of ``num_iterations`` a merge; with a budget merges have multiples of that.
    """
    plan = contender.plan
    counts = np.array([iterations[merge] for merge in plan.merges], dtype=np.float64)
    times = None if config.budget is None else counts / config.num_iterations
    name, *aliases = contender.names
    measured = [cell["measured"]["paired_rms"] for cell in cells]
    values = [each["value"] for each in measured]
    # the range of the seeds, or of one seed's samples
    ends = measured[0] if len(values) == 1 else {"low": min(values), "high": max(values)}
    return {
        "name": name,
        "label": contender.label,
        "aliases": aliases,
        "is_canonical": plan in [build_strategy(name, plan.num_steps) for name in CANONICAL],
        "merges": len(plan.merges),
        "boundaries": list(plan.boundaries),
        "merge_list": [{"boundaries": list(merge.boundaries)} for merge in plan.merges],
        "iterations": [iterations[merge] for merge in plan.merges],
        "predicted": {kind: prediction(problem, plan, times) for kind, problem in problems.items()},
        "measured": {"mean": float(np.mean(values)), "low": ends["low"], "high": ends["high"]},
        "per_seed": [
            {key: cell[key] for key in ("seed", "measured", "seconds", "network_evaluations")}
            for cell in cells
        ],
        "picture": cells[0]["picture"],
    }


def prediction(problem: Problem, plan: Plan, times: Array | None = None) -> dict[str, Any]:
    """The error that a training model foretells of a plan, its parts, and W2 by eigenvalue.

    ``times`` (number of merges,) are multiples of the problem's training, if not all are 1.
    """
    outcome = evaluate(problem, plan, times)
    return {
        "error": outcome.predicted_error,
        "w2": outcome.w2,
        "floor": outcome.floor,
        "errors": outcome.errors.tolist(),
    }


_QUESTION = "Does the predicted order of merge plans hold for real networks?"
STUDY = Study(__name__, _QUESTION, RealNetworksSettings, run, trains_networks=True)
