"""What a run forecasts from: the share of its budget for calibration, spent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from accelerate import Accelerator

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.errors import InputError
from opmerge.forecast import FittedLaw, TeacherTable
from opmerge.measure.calibration import calibrate, kept_table, law_prior
from opmerge.measure.calibration_budget import CalibrationSize, size_within
from opmerge.measure.teacher_table import (
    MeasuredTable,
    fewest_samples,
    samples_within,
    table_evaluations,
)
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum
from opmerge.spending.order import Order

_FEWEST_ITERATIONS = 25
"""Of a probe; with fewer the law of its kind of network foretells more than they would."""

_FEW_SAMPLES = 500  # of a table without probes


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What forecasts are made from, and what it cost, in the unit of the budget.

    Args:
        is_probed: whether the law was fitted to probes that were trained as the run will be, but
            for a network of their own for each merge.
    """

    law: FittedLaw
    table: TeacherTable
    cost: float
    is_probed: bool


def probes_of(order: Order) -> CalibrationSize | None:
    """What is trained to calibrate, or None where the share does not pay for enough."""
    share = order.prices.share(order.asked.calibration_share)
    with suppress(InputError):  # of a share that pays for no probes
        size = size_within(share, *_given(order), order.folder / "calibration")
        if max((each.num_iterations for each in size.probes), default=0) >= _FEWEST_ITERATIONS:
            return size
    return None


def knowledge_of(order: Order, probes: CalibrationSize | None) -> Knowledge:
    """The law and the teacher's table: from probes, or else the law of its kind of network and a
    table alone; kept in the folder."""
    given, folder = _given(order), order.folder / "calibration"
    if probes is not None:
        count = max(each.num_iterations for each in probes.probes)
        found = calibrate(
            *given[:3],
            given[3].replaced(num_iterations=count),
            order.accelerator,
            probes.probes,
            folder,
            order.report,
            table_samples=probes.table_samples,
            looks=False,
        )
        if order.accelerator.is_main_process:
            found.write(folder / "calibration.json")  # for plans, and pages, of other budgets
        _warn_of_teacher(order, found.table)
        cost = order.asked.calibration_share * order.prices.amount
        return Knowledge(found.law_fit.law, found.table.table, cost, is_probed=True)
    table = kept_table(*given, folder, samples_without_probes(order), order.report)
    _warn_of_teacher(order, table)
    is_solved = order.config.linear_part == "solve"
    law = law_prior(order.teacher, is_solved).fitted(table.table.sizes)
    order.warn(f"without probes the law of merges is {law.source}: intervals are wide")
    cost = 0.0 if order.prices.counts_iterations else table.network_evaluations
    return Knowledge(law, table.table, cost, is_probed=False)


def _warn_of_teacher(order: Order, table: MeasuredTable) -> None:
    for note in table.unlike(order.spectrum, order.teacher):
        order.warn(note)


def samples_without_probes(order: Order) -> int:
    """Of a table: those that the calibration's share pays for, but enough, and at most 500.

    Raises:
        InputError: if that takes more than half of the budget.
    """
    fewest = fewest_samples(order.spectrum, order.config.linear_part == "solve")
    most = max(fewest, _FEW_SAMPLES)
    if order.prices.counts_iterations:
        return most
    amount, given = order.prices.amount, (order.teacher, order.spectrum)
    least = 2 * table_evaluations(*given, fewest)
    order.prices.check_pays(least, "twice what the teacher's table takes")
    affordable = samples_within(order.asked.calibration_share * amount, *given)
    return min(max(affordable, fewest), most)


def _given(order: Order) -> tuple[Teacher, DataInputs, Spectrum, DistillationConfig, Accelerator]:
    """What probes and table are made with: a network for each merge."""
    alone = order.config.replaced(sharing="merge")
    return order.teacher, order.inputs, order.spectrum, alone, order.accelerator
