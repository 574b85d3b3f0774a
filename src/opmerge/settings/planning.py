"""The merge problem, and how its plan is found.

``given`` tells what was asked for, and not left to a default: a plan file says the rest.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from opmerge.settings.base import Settings, option
from opmerge.settings.types import File, MergeRule, Objective

_Checked = Annotated[float, Field(allow_inf_nan=True)]  # by the library, in its words


class ProblemOptions(Settings):
    """The merge problem."""

    panel = "Problem"

    steps: int = option(64, "T, the teacher's steps.")
    merge_time: _Checked = option(6.4, "Optimisation time s of a merge.")
    schedule: str = option(
        "cosine",
        "cosine, nichol-dhariwal, linear, scaled-linear, equal-angle:2.0, a diffusers "
        "scheduler_config.json or model folder, or a file of arrays.",
    )
    training: File | None = option(None, "A training model (JSON), instead of --merge_time.")
    merge_rule: MergeRule = option("operator-copy", "operator-copy or denoiser-copy.")
    objective: Objective = option("teacher", "teacher or data.")
    student_steps: int = option(1, "K, the student's steps.")


class SearchOptions(Settings):
    """How the plan is found, and what is set beside it."""

    panel = "Search"

    planner: str = option("auto", "auto, interval, scalar, certified, pareto or brute-force.")
    epsilon: _Checked = option(0.0, "ε of the planner pareto, relative to each range.")
    strategy: tuple[str, ...] | None = option(
        None,
        "A strategy to set beside the plan; may be repeated: vanilla, progressive, consistency, "
        "boot, uniform:4, temporal:8, phased:32,4, hybrid:8.",
    )
