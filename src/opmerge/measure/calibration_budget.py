"""How much a calibration may cost: its probes and its table within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.distillation.executor import Distillation
from opmerge.errors import InputError
from opmerge.forecast.cost import STUDENT_PASSES, most_iterations
from opmerge.measure.linearity import linearity_evaluations
from opmerge.measure.probes import (
    MOST_STATES,
    ProbeSettings,
    default_probes,
    measuring_evaluations,
    probe_plan,
    training_work,
)
from opmerge.measure.teacher_table import (
    default_samples,
    fewest_samples,
    samples_within,
    table_evaluations,
)
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.types import read_budget
from opmerge.spectra import Spectrum
from opmerge.store import MISSING, Store

_TABLE_SHARE = 0.2  # of a budget, at most
_MEASURING_SHARE = 0.3
_LOOKING_SHARE = 0.1
_FEWEST_STATES = 200
_FEWEST_ITERATIONS = 2


@dataclass(frozen=True)
class CalibrationSize:
    """What is trained and measured, and what that costs in the budget's unit.

    ``looks`` says whether the budget pays for a look at how linear the teacher is.
    """

    probes: tuple[ProbeSettings, ...]
    table_samples: int
    cost: float
    looks: bool = False


def size_within(
    budget: str,
    teacher: Teacher,
    inputs: DataInputs,
    spectrum: Spectrum,
    config: DistillationConfig,
    accelerator: Accelerator,
    folder: Path,
    slower: bool = False,
    look: bool = False,
) -> CalibrationSize:
    """The default probes with the most iterations that a budget allows, and a table.

    With ``look`` also what says how linear the teacher is, if a tenth of the budget pays for it.

    A budget is network evaluations of one sample, training and measuring together; iterations,
    those of all probes; or a time: then a batch and an iteration are timed first, and what they
    took is kept in the folder, so that an interrupted calibration goes on with the same probes.

    Raises:
        InputError: if it does not suffice for two iterations a merge.
    """
    amount, unit = read_budget(budget)
    costs = iteration_times(unit, teacher, inputs, config, accelerator, folder)
    rate = config.optimization.learning_rate
    most, fewest = default_samples(teacher), fewest_samples(spectrum, config.linear_part == "solve")
    evaluation = costs.passes / config.optimization.global_batch_size(accelerator.num_processes)
    samples = most
    if evaluation > 0:
        affordable = samples_within(_TABLE_SHARE * amount / evaluation, teacher, spectrum)
        samples = min(max(affordable, fewest), most)
    each = default_probes(teacher.num_steps, _FEWEST_ITERATIONS, rate, slower, num_states=1)
    of_one = evaluation * sum(measuring_evaluations(teacher, one) for one in each)
    states = MOST_STATES
    if of_one > 0:
        states = int(np.clip(_MEASURING_SHARE * amount / of_one, _FEWEST_STATES, MOST_STATES))

    looking = evaluation * linearity_evaluations(teacher)
    looks = look and looking <= _LOOKING_SHARE * amount

    def size(count: int) -> CalibrationSize:
        probes = default_probes(teacher.num_steps, count, rate, slower, states)
        work = [training_work(teacher, each, config, accelerator.num_processes) for each in probes]
        trained = sum(costs.passes * a + costs.iteration * b for a, b in work)
        measured = sum(measuring_evaluations(teacher, each) for each in probes)
        measured += table_evaluations(teacher, spectrum, samples)
        cost = trained + measured * evaluation + looks * looking
        return CalibrationSize(probes, samples, cost, looks)

    least = size(_FEWEST_ITERATIONS).cost
    if least > amount:
        requirement = f"must be >= {math.ceil(least):,} {unit} to calibrate"
        raise InputError("budget", requirement, budget)
    return size(most_iterations(lambda n: size(n).cost <= amount, _FEWEST_ITERATIONS))


@dataclass(frozen=True)
class IterationTimes:
    """In the unit of a budget: of a batch through the network, and of a student's iteration."""

    passes: float
    iteration: float


def iteration_times(
    unit: str,
    teacher: Teacher,
    inputs: DataInputs,
    config: DistillationConfig,
    accelerator: Accelerator,
    folder: Path,
) -> IterationTimes:
    """What a batch and an iteration take of a budget; a time is measured once, kept in the folder.

    It is measured on the merge of all steps. Every process asks; the first one's times hold.
    """
    batch = config.optimization.global_batch_size(accelerator.num_processes)
    if unit == "iterations":
        return IterationTimes(0.0, 1.0)
    if unit == "evaluations":
        return IterationTimes(float(batch), STUDENT_PASSES * batch)

    def timed() -> list[float]:
        plan = probe_plan(teacher.num_steps, teacher.num_steps, 0)
        pace = Distillation(teacher, plan, inputs, config, accelerator).pace()
        return [pace.operator, pace.step]

    store, is_main = Store(folder, warn=lambda line: None), accelerator.is_main_process
    settings = config.what_decides(accelerator.num_processes)
    identity = {"teacher": teacher.digest, "config": settings}
    kept = store.read("timing", identity) if is_main else MISSING
    known: list[Any] = [None if kept is MISSING else kept]
    broadcast_object_list(known)
    if known[0] is None:
        known = [timed()]
        if is_main:
            store.write("timing", identity, known[0])
        broadcast_object_list(known)
    return IterationTimes(*known[0])
