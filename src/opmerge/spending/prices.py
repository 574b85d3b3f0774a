"""What a budget is worth on this machine: its amount, and what an iteration takes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.errors import InputError
from opmerge.forecast.cost import IterationCost, fewest_targets
from opmerge.measure.calibration_budget import iteration_times
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.types import read_budget

_LEAST_PASS = 1e-3  # of a training step: passes too short to be timed


@dataclass(frozen=True)
class Prices:
    """A budget in network evaluations, or in iterations, and the cost of an iteration in them.

    A time is turned into evaluations by what they take here: κ is then what a training step of the
    student really takes, in forward passes.

    Args:
        told: the budget as it was asked for.
        amount: B.
        cost: of an iteration of a merge.
        seconds: that a network evaluation takes; None where no time was asked for.
    """

    told: str
    amount: float
    cost: IterationCost
    seconds: float | None = None

    @property
    def counts_iterations(self) -> bool:
        """Whether the budget is of iterations, so that teacher passes cost nothing of it."""
        return read_budget(self.told)[1] == "iterations"

    @property
    def usual(self) -> IterationCost:
        """The cost where targets are used once and nothing is solved."""
        return replace(self.cost, reuse=1, is_linear_solved=False, fewest=0)

    def check_pays(self, cost: float, why: str) -> None:
        """Refuse a budget of less than that, by ``InputError`` in its own unit."""
        if self.amount >= cost:
            return
        unit = "iterations" if self.counts_iterations else "network evaluations"
        told = f"{math.ceil(cost):,} {unit}"
        if self.seconds is not None:
            told = f"{math.ceil(cost * self.seconds)}s on this machine"
        raise InputError("budget", f"must be >= {told}, {why}", self.told)

    def share(self, part: float) -> str:
        """A part of the budget in the words of budgets."""
        if self.seconds is not None:
            return f"{part * self.amount * self.seconds:.6f}s"
        return f"{part * self.amount:.0f}{'it' if self.counts_iterations else ''}"


def cost_of_training(
    teacher: Teacher, config: DistillationConfig, num_processes: int = 1
) -> IterationCost:
    """The cost of students that are trained so, in network evaluations."""
    batch = config.optimization.global_batch_size(num_processes)
    is_solved = config.linear_part == "solve"
    return IterationCost(
        batch,
        config.target_reuse,
        is_solved,
        guided_steps=teacher.guided_steps,
        fewest=fewest_targets(math.prod(teacher.sample_shape), batch) if is_solved else 0,
    )


def priced(
    budget: str,
    teacher: Teacher,
    inputs: DataInputs,
    config: DistillationConfig,
    accelerator: Accelerator,
    folder: Path,
) -> Prices:
    """Prices of a budget: network evaluations, iterations or a time (``opmerge.settings.types``).

    For a time an iteration is timed first, once for all resumptions.
    """
    amount, unit = read_budget(budget)
    cost = cost_of_training(teacher, config, accelerator.num_processes)
    if unit == "evaluations":
        return Prices(budget, amount, cost)
    if unit == "iterations":
        return Prices(budget, amount, IterationCost.of_iterations())

    # where the calibration keeps it too, so that both go by the same times
    times = iteration_times(unit, teacher, inputs, config, accelerator, folder / "calibration")
    step = times.iteration
    a_pass = max(times.passes, _LEAST_PASS * step)
    cost = replace(cost, student_passes=step / a_pass)
    return Prices(budget, amount * cost.batch / a_pass, cost, a_pass / cost.batch)
