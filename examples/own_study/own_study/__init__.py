"""Does the noise schedule decide whether BOOT or vanilla errs less?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field

from opmerge.problem import Problem
from opmerge.schedules import resolve_schedule
from opmerge.settings.base import Settings
from opmerge.settings.types import Ascending, NonEmpty, Positive, TeacherSteps
from opmerge.spectra import eigenvalue_spectrum
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import PAPER_RULE, strategy_errors

__all__ = ["STUDY", "OwnSettings", "compare", "run"]

_EIGENVALUES = (0.1, 0.2, 0.5, 0.8, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class OwnSettings(Settings):
    """Settings of the study."""

    schedules: Annotated[tuple[str, ...], NonEmpty] = Field(
        ("cosine", "nichol-dhariwal", "linear", "scaled-linear"),
        description="noise schedules, as `resolve_schedule` has them",
    )
    eigenvalues: Annotated[tuple[Positive, ...], Ascending] = Field(
        _EIGENVALUES, description="variances λ of the data"
    )
    num_steps: TeacherSteps = Field(128, description="T")

    @classmethod
    def quick(cls) -> Self:
        """T = 32: a second."""
        return cls(num_steps=32)


def run(settings: OwnSettings, runner: Runner) -> dict[str, Any]:
    """Compare both strategies under every schedule.

    Returns:
        ``tables``: ``errors``, a row for each schedule and λ.
    """
    values = list(settings.eigenvalues)
    cells = grid(schedule=settings.schedules, num_steps=settings.num_steps, eigenvalues=[values])
    rows = runner.sweep(compare, cells, "comparing")
    return {"tables": {"errors": [row for each in rows for row in each]}}


def compare(schedule: str, num_steps: int, eigenvalues: Sequence[float]) -> list[dict[str, Any]]:
    """W2 of BOOT and vanilla to the teacher at each λ, under operator copy."""
    noise, rows = resolve_schedule(schedule, num_steps), []
    for value in eigenvalues:
        problem = Problem(eigenvalue_spectrum([value]), noise, merge_rule=PAPER_RULE)
        errors = strategy_errors(problem, ["boot", "vanilla"])
        rows.append({"schedule": schedule, "eigenvalue": value, **errors})
    return rows


STUDY = Study(
    __name__,
    "Does the noise schedule decide whether BOOT or vanilla errs less?",
    OwnSettings,
    run,
)
