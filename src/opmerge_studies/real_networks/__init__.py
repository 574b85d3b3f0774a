"""Does the order of merge plans that the linear theory predicts hold for real networks?

One teacher is trained (or loaded); every plan is executed on it with equal iterations a merge,
once a seed. The seeds vary what students are trained on; the teacher, and the noise from which
student and teacher are compared, are the same throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count, check_whole
from opmerge.data import Source, SourceOptions, open_source
from opmerge.denoisers.teacher_training import TeacherConfig
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.record import problem_settings
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import diffusers_schedule
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum, estimate_spectrum
from opmerge.training import training_from_dict
from opmerge_studies.real_networks.agreement import rank_agreement, reversed_pairs
from opmerge_studies.real_networks.execution import Execution, load_or_train_teacher
from opmerge_studies.shared.runner import Runner

__all__ = ["Config", "Contender", "contenders", "run"]

PLANNED = {"best": "spectrum", "best-calibrated": "calibrated"}
"""Among the plans of a study: those that the planner finds, and from which prediction."""

CANONICAL = ("vanilla", "progressive", "consistency", "boot")
"""The strategies that arXiv 2505.16024 compares."""

_FEWEST = 3  # plans whose order can be more than right or wrong
_PLANNED_LABELS = {"best": "planner's plan", "best-calibrated": "calibrated plan"}


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        source: the data: ``digits``, ``patches``, a file or a folder.
        source_options: how images are cut.
        teacher: what teacher is trained.
        teacher_folder: a saved teacher, to be loaded instead.
        steps: T.
        plans: strategies by name, ``best`` for the planner's plan, and ``best-calibrated`` for
            its plan under the calibrated training model (left out without ``calibrate``).
        seeds: of the distillation's batches; each plan is executed once with each.
        distillation: how each plan is executed; its own seed is not used.
        num_samples: samples from equal noise by which a student is measured.
        calibrate: also predict with a training model that is fitted to the network.

    Raises:
        InputError: naming the setting that is out of range.
    """

    source: str = "digits"
    source_options: SourceOptions = field(default_factory=SourceOptions)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    teacher_folder: str | None = None
    steps: int = 32
    plans: tuple[str, ...] = (
        *PLANNED,
        "vanilla",
        "progressive",
        "consistency",
        "boot",
        "hybrid:16",
        "hybrid:8",
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    num_samples: int = 2000
    calibrate: bool = True

    def __post_init__(self) -> None:
        if check_count("steps", self.steps) < 2:
            raise InputError("steps", "must be >= 2, for something to merge", self.steps)
        for name in self.plans:
            if name not in PLANNED:
                build_strategy(name, self.steps)
        for key, values in (("plans", self.plans), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise InputError(key, "must be given, each of them once", values)
        for seed in self.seeds:
            check_whole("seeds", seed)
        if check_count("num_samples", self.num_samples) < 4:
            raise InputError("num_samples", "must be >= 4", self.num_samples)
        if self.distillation.merge_seconds is not None:
            raise InputError(
                "merge_seconds",
                "must be left out: the study compares plans with equal iterations a merge",
                self.distillation.merge_seconds,
            )
        check_count("num_iterations", self.distillation.num_iterations)

    @classmethod
    def quick(cls) -> Config:
        """A demonstration of a few minutes on two cores: T = 16, few plans, one seed."""
        return cls(
            teacher=replace(TeacherConfig(), num_iterations=6000),
            steps=16,
            plans=(*PLANNED, "vanilla", "progressive", "consistency"),
            seeds=(0,),
            distillation=replace(DistillationConfig(), num_iterations=200),
            num_samples=1000,
        )


@dataclass(frozen=True)
class Contender:
    """A plan of the comparison.

    Args:
        name: the first name given to it.
        plan: the plan.
        aliases: further names that stand for the same plan.
    """

    name: str
    plan: Plan
    aliases: tuple[str, ...] = ()

    @property
    def short_name(self) -> str:
        """The strategy that it is, or the planner's name for it if it is none that was named."""
        names = (self.name, *self.aliases)
        return next((name for name in names if name not in PLANNED), self.name)

    @property
    def label(self) -> str:
        """The short name in words."""
        return _PLANNED_LABELS.get(self.short_name, self.short_name)


def contenders(names: Sequence[str], problems: Mapping[str, Problem]) -> list[Contender]:
    """The plans to be compared; names that stand for the same plan are joined.

    Args:
        names: strategies, and keys of ``PLANNED``; those of a prediction that was not made are
            left out.
        problems: by prediction, ``spectrum`` among them.

    Raises:
        InputError: if there are fewer than two different plans.
    """
    found: list[Contender] = []
    for name in names:
        if name in PLANNED and PLANNED[name] not in problems:
            continue
        plan = _build(name, problems)
        same = [number for number, other in enumerate(found) if other.plan == plan]
        if same:
            other = found[same[0]]
            found[same[0]] = replace(other, aliases=(*other.aliases, name))
        else:
            found.append(Contender(name, plan))
    if len(found) < 2:
        raise InputError("plans", "must be at least two different ones", ", ".join(names))
    return found


def _build(name: str, problems: Mapping[str, Problem]) -> Plan:
    if name in PLANNED:
        return find_plan(problems[PLANNED[name]]).plan
    return build_strategy(name, problems["spectrum"].num_steps)


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Train, distill and measure; go on where an interrupted run of the same settings stopped.

    The folder holds ``teacher/``, checkpoints, and ``cells/SEED-PLAN.json``, one for each plan
    and seed that is finished.

    Args:
        config: the settings.
        runner: of the run directory; networks are trained one after the other.

    Returns:
        The record's contents, JSON values only.

    Raises:
        InputError: if settings, data and teacher do not fit together, or what the folder holds is
            of another run.
    """
    folder, progress = runner.folder, runner.progress
    with progress(f"looking through {config.source}", None) as report:
        source = open_source(config.source, config.source_options, report)
    spectrum = estimate_spectrum(source)
    teacher = load_or_train_teacher(config, source, folder, progress)
    schedule = diffusers_schedule(teacher.scheduler_config, config.steps)
    problem = Problem(spectrum, schedule, merge_rule=config.distillation.merge_rule)
    execution = Execution(config, teacher, source, spectrum, folder)
    problems, calibration = {"spectrum": problem}, None
    if config.calibrate:
        calibration = execution.calibration(progress)
        training = training_from_dict(calibration["training"])
        problems["calibrated"] = replace(problem, training=training)
    plans = contenders(config.plans, problems)
    cells = execution.run(plans, progress)
    entries = [_entry(plan, problems, cells[plan.name]) for plan in plans]
    return {
        "problem": problem_settings(problem),
        "settings": _settings(config, source, spectrum, teacher),
        "spectrum": {
            "eigenvalues": problem.distinct_eigenvalues.tolist(),
            "multiplicities": problem.distinct_multiplicities.tolist(),
        },
        "seeds": list(config.seeds),
        "predictions": {name: other.training.to_dict() for name, other in problems.items()},
        "plans": entries,
        "agreement": {name: _agreement(name, entries) for name in problems},
        "linearity": execution.linearity(),
        "calibration": calibration,
        "pictures": execution.pictures(),
    }


def _entry(
    contender: Contender, problems: dict[str, Problem], cells: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is predicted and what was measured of one plan."""
    plan = contender.plan
    return {
        "name": contender.name,
        "label": contender.label,
        "aliases": list(contender.aliases),
        "is_canonical": plan in [build_strategy(name, plan.num_steps) for name in CANONICAL],
        "merges": len(plan.merges),
        "boundaries": list(plan.boundaries),
        "merge_list": [{"boundaries": list(merge.boundaries)} for merge in plan.merges],
        "predicted": {name: _prediction(problem, plan) for name, problem in problems.items()},
        "measured": _summary([cell["measured"]["paired_rms"] for cell in cells]),
        "per_seed": [
            {key: cell[key] for key in ("seed", "measured", "seconds", "network_evaluations")}
            for cell in cells
        ],
        "picture": cells[0]["picture"],
    }


def _prediction(problem: Problem, plan: Plan) -> dict[str, Any]:
    outcome = evaluate(problem, plan)
    return {
        "error": outcome.predicted_error,
        "w2": outcome.w2,
        "floor": outcome.floor,
        "errors": outcome.errors.tolist(),
    }


def _summary(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over seeds and the range of what was seen: of the seeds, or of one seed's samples."""
    values = [each["value"] for each in measured]
    ends = measured[0] if len(values) == 1 else {"low": min(values), "high": max(values)}
    return {"mean": float(np.mean(values)), "low": ends["low"], "high": ends["high"]}


def _agreement(kind: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all plans, over the canonical ones, and the pairs that disagree."""
    canonical = [entry for entry in entries if entry["is_canonical"]]
    low, high = (_measured(entries, end) for end in ("low", "high"))
    if len(low) > 1:  # seeds tell more than the samples of each
        low = high = _measured(entries, "value")
    return {
        **_ranks(kind, entries),
        "canonical": _ranks(kind, canonical) if len(canonical) >= _FEWEST else None,
        "reversed": [
            [entries[a]["label"], entries[b]["label"]]
            for a, b in reversed_pairs(_predicted(kind, entries), low, high)
        ],
    }


def _ranks(kind: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    agreement = rank_agreement(_predicted(kind, entries), _measured(entries, "value"))
    return {"plans": [entry["label"] for entry in entries], **agreement}


def _predicted(kind: str, entries: Sequence[dict[str, Any]]) -> list[float]:
    return [entry["predicted"][kind]["error"] for entry in entries]


def _measured(entries: Sequence[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """(seeds, plans) values, or ends of their intervals over samples."""
    rows = [[seed["measured"]["paired_rms"][key] for seed in e["per_seed"]] for e in entries]
    return np.array(rows, dtype=float).T


def _settings(config: Config, source: Source, spectrum: Spectrum, teacher: Any) -> dict[str, Any]:
    """Every option as used."""
    return {
        "source": source.name,
        "scaling": source.scaling,
        "num_samples": config.num_samples,
        "plans": list(config.plans),
        "seeds": list(config.seeds),
        "calibrate": config.calibrate,
        "parameters": sum(p.numel() for p in teacher.network.parameters()),
        "teacher_folder": config.teacher_folder,
        "teacher": asdict(config.teacher) if config.teacher_folder is None else {},
        "teacher_digest": teacher.digest,
        "distillation": asdict(config.distillation),
        "spectrum_samples": spectrum.num_samples,
    }
