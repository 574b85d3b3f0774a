"""Settings of the study `real-networks`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.plans import build_strategy
from opmerge.settings.base import Settings, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.networks import TeacherConfig

__all__ = ["PLANNED", "Distinct", "RealNetworksSettings"]

PLANNED = {"best": "spectrum", "best-calibrated": "calibrated"}
"""Among the plans of the study: those that the planner finds, and from which prediction."""


def _distinct(values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise InputError(str(info.field_name), "must be given, each of them once", values)
    return values


Distinct = AfterValidator(_distinct)
"""Of a tuple: at least one value, no two of them equal."""


class RealNetworksSettings(Settings):
    """Settings of the study."""

    source: str = option("digits", "the data: digits, patches, a file or a folder")
    source_options: SourceOptions = option(SourceOptions(), "how images are cut")
    teacher: TeacherConfig = option(TeacherConfig(), "what teacher is trained")
    teacher_folder: str | None = option(None, "a saved teacher, to be loaded instead")
    steps: Annotated[int, Field(ge=2)] = option(32, "T")
    plans: Annotated[tuple[str, ...], Distinct] = option(
        (*PLANNED, "vanilla", "progressive", "consistency", "boot", "hybrid:16", "hybrid:8"),
        "strategies; best for the planner's plan, and best-calibrated for its plan "
        "under the calibrated training model (left out without calibrate)",
    )
    seeds: Annotated[tuple[int, ...], Distinct] = option(
        (0, 1, 2), "of the distillation's batches; each plan is executed with each"
    )
    distillation: DistillationConfig = option(
        DistillationConfig(), "how each plan is executed; its own seed is not used"
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
        if self.distillation.merge_seconds is not None:
            raise InputError(
                "merge_seconds",
                "must be left out: the study compares plans with equal iterations a merge",
                self.distillation.merge_seconds,
            )
        check_count("num_iterations", self.distillation.num_iterations)
        return self

    @classmethod
    def quick(cls) -> Self:
        """A demonstration of a few minutes on two cores: T = 16, few plans, one seed."""
        return cls(
            teacher=TeacherConfig(num_iterations=6000),
            steps=16,
            plans=(*PLANNED, "vanilla", "progressive", "consistency"),
            seeds=(0,),
            distillation=DistillationConfig(num_iterations=200),
            num_samples=1000,
        )
