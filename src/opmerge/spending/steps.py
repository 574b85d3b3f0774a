"""The steps of spending: each is kept in the run's folder, and done once however often it is asked.

A share of the budget goes to the calibration; with the rest, the plan is trained that is forecast
to leave least. Others beside it are trained at the same total, so what planning costs counts.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.adapters import fused_student
from opmerge.distillation.executor import Distillation
from opmerge.distillation.free_step import num_batches
from opmerge.distillation.model_card import Making
from opmerge.distillation.pipeline import load_student, save_student
from opmerge.distillation.sampling import told_of
from opmerge.distillation.stages import iterations_of_stages, plan_stages
from opmerge.errors import InputError
from opmerge.forecast import FittedLaw, Forecast, TeacherTable, Trial, forecast, law_after
from opmerge.forecast.cost import IterationCost
from opmerge.measure.calibration import calibrate, kept_table, law_prior
from opmerge.measure.calibration_budget import CalibrationSize, size_within
from opmerge.measure.evaluation import Measurement, evaluate_student
from opmerge.measure.teacher_table import FEWEST_SAMPLES, table_evaluations
from opmerge.planners.around_budget import CUT_SHORT, PlansAround, plans_around
from opmerge.planners.budget import BudgetPlan
from opmerge.planners.free_step import with_free_step
from opmerge.plans import Merge, Plan, build_strategy
from opmerge.settings.commands import SpendingOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum
from opmerge.spending.pilot import successive_halving
from opmerge.spending.prices import Prices
from opmerge.store import Store, digest

CLOSED_FORM = "closed form alone"

_FEWEST_ITERATIONS = 25
"""Of a probe; with fewer the law of its kind of network foretells more than they would."""

_FEW_SAMPLES = 500  # of a table without probes

_MOST_PLANS = 2
"""In a pilot; the law's ties are alike in all that matters but how they are trained."""

_PILOT_SAMPLES = 500

_FEWEST_PILOTED = 100
"""Iterations of the longest merge of a short run; fewer say more of targets learned by heart."""

_LEAST = 1e-12

_SEED = 0  # of the noise that students are compared on; training draws from other streams

Report = Callable[[str, float, float], None]
"""Told what is done, how much of it, and of how much."""


@dataclass(frozen=True)
class Trained:
    """A plan that was trained, what it cost and what it left.

    Args:
        name: of the plan.
        iterations: one a merge, or one a stage of one network for all, in the order of execution;
            0 of what was only solved.
        cost: in the unit of the budget, calibration apart.
        forecast: the paired error that the law gave; None where it does not hold.
        measured: the paired error, with its 95 % interval.
        seconds: that the training took here.
    """

    name: str
    plan: Plan
    iterations: tuple[int, ...]
    cost: float
    forecast: Forecast | None
    measured: Measurement
    seconds: float


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


@dataclass(frozen=True)
class Candidate:
    """A plan for what is left of the budget, and the learning rate that it is trained with."""

    planned: BudgetPlan
    learning_rate: float


class Spending:
    """One budget for one teacher.

    Args:
        inputs: data in the teacher's units.
        spectrum: theirs, with eigenvectors.
        asked: the shares of the budget, the student's steps, and the folder that keeps every part.
        config: of all trainings, but for their iterations.
        learning_rates: among which the pilot chooses; the first without one.
    """

    def __init__(
        self,
        teacher: Teacher,
        inputs: DataInputs,
        spectrum: Spectrum,
        asked: SpendingOptions,
        config: DistillationConfig,
        accelerator: Accelerator,
        prices: Prices,
        learning_rates: Sequence[float] = (),
        report: Report = lambda what, done, total: None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.teacher, self.inputs, self.spectrum = teacher, inputs, spectrum
        self.asked, self.folder = asked, asked.output_dir
        self.config, self.accelerator, self.prices = config, accelerator, prices
        self.learning_rates = tuple(learning_rates) or (config.optimization.learning_rate,)
        self._report, self._warn = report, warn
        self._trials: dict[float, list[Trial]] = {}  # of the pilot, by learning rate

    def check_budget(self) -> None:
        """Refuse, by ``InputError``, a budget of which half pays for neither probes nor a table."""
        if self._probes is None:
            self._samples_without_probes()

    @property
    def _given(self) -> tuple[Teacher, DataInputs, Spectrum, DistillationConfig, Accelerator]:
        config = self.config.replaced(sharing="merge")
        return self.teacher, self.inputs, self.spectrum, config, self.accelerator

    @cached_property
    def _probes(self) -> CalibrationSize | None:
        """What is trained to calibrate, or None where the share does not pay for enough."""
        share, folder = self.prices.share(self.asked.calibration_share), self.folder / "calibration"
        with suppress(InputError):  # of a share that pays for no probes
            size = size_within(share, *self._given, folder)
            if max((each.num_iterations for each in size.probes), default=0) >= _FEWEST_ITERATIONS:
                return size
        return None

    @cached_property
    def knowledge(self) -> Knowledge:
        """The law and the teacher's table: from probes, where the share pays for enough of them,
        or the law of its kind of network and a table alone."""
        given, size = self._given, self._probes
        folder = self.folder / "calibration"
        part = self.asked.calibration_share * self.prices.amount
        if size is not None:
            count = max(each.num_iterations for each in size.probes)
            found = calibrate(
                *given[:3],
                given[3].replaced(num_iterations=count),
                self.accelerator,
                size.probes,
                folder,
                lambda done, total: self._report("calibrating", done, total),
                table_samples=size.table_samples,
            )
            if self.accelerator.is_main_process:
                found.write(folder / "calibration.json")  # for plans, and pages, of other budgets
            return Knowledge(found.law_fit.law, found.table.table, part, is_probed=True)
        table = kept_table(*given, folder, self._samples_without_probes())
        is_solved = self.config.linear_part == "solve"
        law = law_prior(self.teacher, is_solved).fitted(len(table.table.sizes))
        free = self.prices.counts_iterations
        cost = 0.0 if free else table.network_evaluations
        return Knowledge(law, table.table, cost, is_probed=False)

    @property
    def not_foretold(self) -> list[str]:
        """What is trained otherwise than all that the law was fitted to, in words."""
        otherwise = {
            "one network for all steps": self.config.sharing == "all",
            "adapters": self.config.lora_rank is not None and not self.knowledge.is_probed,
        }
        return [what for what, holds in otherwise.items() if holds]

    def _samples_without_probes(self) -> int:
        """Of a table that costs the calibration's share, or the least that one can be made of.

        Raises:
            InputError: if that takes more than half of the budget.
        """
        if self.prices.counts_iterations:
            return _FEW_SAMPLES
        costs = {
            count: table_evaluations(self.teacher, self.spectrum, count)
            for count in (_FEW_SAMPLES, FEWEST_SAMPLES)
        }
        amount = self.prices.amount
        if costs[_FEW_SAMPLES] <= self.asked.calibration_share * amount:
            return _FEW_SAMPLES
        if 2 * costs[FEWEST_SAMPLES] > amount:
            requirement = (
                f"must be worth >= {2 * costs[FEWEST_SAMPLES]:,} network evaluations, twice what "
                "the teacher's table takes"
            )
            raise InputError("budget", requirement, self.prices.told)
        return FEWEST_SAMPLES

    @property
    def left(self) -> float:
        """What calibration, table and pilot leave of the budget."""
        return self.prices.amount - self.planning_cost

    @property
    def planning_cost(self) -> float:
        """What is spent before the plan is trained."""
        return self.knowledge.cost + self.pilot_budget

    @property
    def pilot_budget(self) -> float:
        """The share of a pilot, if that pays for short runs that tell anything; or else nothing."""
        budget = self.asked.pilot_share * self.prices.amount
        return budget if budget >= 2 * self._a_short_run else 0.0

    @property
    def _a_short_run(self) -> float:
        """The least that a short run of a merge of all steps may cost, measured."""
        steps, cost = self.teacher.num_steps, self.prices.cost
        each = cost.per_iteration(steps, cost.teacher_passes(steps, 0) - steps)
        return _FEWEST_PILOTED * float(each) + self._measuring

    @property
    def _measuring(self) -> float:
        """What measuring a short run costs: samples of teacher and student."""
        drawn = self.teacher.evaluations(self.teacher.num_steps) + self.asked.student_steps
        return 0.0 if self.prices.counts_iterations else float(_PILOT_SAMPLES * drawn)

    @cached_property
    def plans(self) -> PlansAround:
        """The plan for what is left of the budget, and what stands beside it.

        It is kept: a search that was cut short would find another one the next time, and in each
        process.

        Raises:
            InputError: if it does not pay for an iteration of every merge of any plan.
        """
        table, law = self.knowledge.table, self.knowledge.law
        arrays = b"".join(each.tobytes() for each in (table.products, table.gains))
        identity = {
            "budget": self.left,
            "student_steps": self.asked.student_steps,
            "cost": repr(self.prices.cost),
            "law": law.to_dict(),
            "table": hashlib.sha256(arrays).hexdigest(),
        }
        found = [None]
        if self.accelerator.is_main_process:
            store = Store(self.folder, warn=self._warn)
            found = [store.kept("plans", identity, lambda: self._search().to_dict())]
        broadcast_object_list(found)
        assert found[0] is not None, "of the first process"
        plans = PlansAround.from_dict(found[0], table, law)
        if plans.is_cut:
            self._warn(f"{CUT_SHORT} (--max_seconds {self.asked.max_seconds:g})")
        return plans

    def _search(self) -> PlansAround:
        table, law, seconds = self.knowledge.table, self.knowledge.law, self.asked.max_seconds
        begin = time.monotonic()

        def tell(done: float, doing: str) -> None:
            self._report("planning", min(time.monotonic() - begin, seconds), seconds)

        given = table, law, self.left, [self.asked.student_steps], self.prices.cost
        return plans_around(*given, seconds / 2, tell)  # and as much for a plan of the budget

    @cached_property
    def chosen(self) -> Candidate:
        """What is trained, with what is expected of it after the pilot."""
        planned = self._piloted.planned
        expected = forecast(self.law, self.knowledge.table, planned.plan, planned.iterations)
        return replace(self._piloted, planned=replace(planned, forecast=expected))

    @cached_property
    def law(self) -> FittedLaw:
        """That of ``knowledge``, and what the pilot's runs at the rate that is taken add to it."""
        trials = self._trials.get(self._piloted.learning_rate, [])
        return law_after(self.knowledge.law, self.knowledge.table, trials)

    @cached_property
    def foretold(self) -> PlansAround:
        """The plans, with what is expected of them after the pilot."""
        return PlansAround.from_dict(self.plans.to_dict(), self.knowledge.table, self.law)

    @cached_property
    def _piloted(self) -> Candidate:
        """Of the plans that forecasts do not tell apart, and of the learning rates, those that
        short runs are for."""
        least = self._with_free_step(self.plans.chosen.best)
        plans = [
            least,
            *(tie.plan for tie in self.plans.chosen.ties if least == self.plans.chosen.best),
        ]
        distinct = {planned.plan: planned for planned in reversed(plans[:_MOST_PLANS])}
        candidates = [
            Candidate(planned, rate)
            for planned in reversed(distinct.values())
            for rate in self.learning_rates
        ]
        while candidates[1:] and self._of_each(len(candidates)) < self._a_short_run:
            candidates.pop()
        return successive_halving(candidates, self.pilot_budget, self._after_a_short_run)

    def _of_each(self, count: int) -> float:
        """What the first of the short runs of so many candidates may cost."""
        return self.pilot_budget / math.ceil(math.log2(count)) / count

    def _with_free_step(self, best: BudgetPlan) -> BudgetPlan:
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        runs = 0 if self.prices.counts_iterations else size * num_batches(self.teacher, size)
        table, law = self.knowledge.table, self.knowledge.law
        given = table, law, self.left, best, self.asked.student_steps, self.prices.cost, runs
        return with_free_step(*given)

    def _after_a_short_run(self, candidate: Candidate, budget: float) -> float:
        """The error to be expected of a candidate, from what a run of so much left.

        The law says by how much more iterations lower it.
        """
        planned = candidate.planned
        factor = max(budget - self._measuring, 0.0) / planned.cost
        counts = tuple(max(1, math.floor(factor * count)) for count in planned.iterations)
        law, table = self.knowledge.law, self.knowledge.table
        short = forecast(law, table, planned.plan, counts)
        number = f"{digest([planned.plan.to_nested(), planned.plan.free_step])[:8]}"
        name = f"pilot {number} at {candidate.learning_rate:g}, {sum(counts)} iterations"
        config = self._config_of(candidate, planned.plan, counts)
        found = self._trained(name, planned.plan, config, budget, short, _PILOT_SAMPLES)
        if 0 < found.measured.value < math.inf:
            trial = Trial(planned.plan, counts, found.measured.value)
            self._trials.setdefault(candidate.learning_rate, []).append(trial)
        return found.measured.value * planned.forecast.rms / max(short.rms, _LEAST)

    def _config_of(
        self, candidate: Candidate, plan: Plan, iterations: tuple[int, ...]
    ) -> DistillationConfig:
        """The settings of a candidate's run, whose merges have so many iterations each."""
        optimization = self.config.optimization
        rated = optimization.replaced(learning_rate=candidate.learning_rate)
        counts = self._of_stages(plan, iterations)
        return self.config.replaced(optimization=rated, num_iterations=counts)

    def _of_stages(self, plan: Plan, iterations: tuple[int, ...]) -> int | tuple[int, ...]:
        """Iterations of the stages, of one network as many as cost what the merges cost apart."""
        if not iterations or self.config.sharing != "all":
            return iterations or 1
        stages, cost = plan_stages(plan, "all"), self.prices.cost
        counts = iterations_of_stages(plan, iterations, "all")
        counts = counts if isinstance(counts, tuple) else (counts,) * len(stages)
        pairs = zip(stages, counts, strict=True)
        asked = sum(n * cost_of(stage.merges, cost) / len(stage.merges) for stage, n in pairs)
        scale = min(1.0, cost.of_plan(plan, iterations) / asked)
        return tuple(max(1, math.floor(scale * count)) for count in counts)

    def best(self) -> Trained:
        """The plan that was chosen, trained."""
        best = self.chosen.planned
        config = self._config_of(self.chosen, best.plan, best.iterations)
        return self._trained("plan", best.plan, config, best.cost, best.forecast)

    def usual(self, strategy: str) -> Trained:
        """A strategy as people run it, for the whole budget: equal iterations of every merge,
        targets used once, nothing solved."""
        plan = build_strategy(strategy, self.teacher.num_steps, self.asked.student_steps)
        stages = plan_stages(plan, self.config.sharing)
        each = sum(cost_of(stage.merges, self.prices.usual) for stage in stages)
        count = int(self.prices.amount // each) if plan.merges else 1
        if count < 1:
            requirement = f"must be >= {each:,.0f} for an iteration of each merge of {strategy}"
            raise InputError("budget", requirement, self.prices.told)
        counts: int | tuple[int, ...] = count
        if self.config.sharing == "all" and stages:
            counts = tuple(count * len(stage.merges) for stage in stages)
        config = self.config.replaced(num_iterations=counts, linear_part="train", target_reuse=1)
        return self._trained(strategy, plan, config, count * each, None)

    def closed_form(self) -> Trained:
        """One merge a window, its linear part solved and nothing trained."""
        plan = build_strategy("vanilla", self.teacher.num_steps, self.asked.student_steps)
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        batches = num_batches(self.teacher, size)
        config = self.config.replaced(num_iterations=batches, target_reuse=1)
        guided = self.prices.cost.guided(plan.merges)
        each = self.prices.cost.target_evaluations(children_of(plan.merges), guided)
        cost = batches * float(each.sum())
        return self._trained(CLOSED_FORM, plan, config, cost, None)

    def student(self, name: str) -> Student:
        """A student that was trained, by its name."""
        return load_student(self.student_folder(name)).to(self.accelerator.device)

    def student_folder(self, name: str) -> Path:
        """Where that student lies."""
        return self._folder(name) / "student"

    def _folder(self, name: str) -> Path:
        return self.folder / "students" / re.sub(r"\W+", "-", name)

    def _trained(
        self,
        name: str,
        plan: Plan,
        config: DistillationConfig,
        cost: float,
        expected: Forecast | None,
        num_samples: int | None = None,
    ) -> Trained:
        """Train and measure a student, or read what an earlier run kept of it."""
        folder = self._folder(name)
        run = Distillation(
            self.teacher, plan, self.inputs, config, self.accelerator, folder, self._warn
        )
        samples = num_samples or self.asked.num_samples
        identity = {"run": run.identity(), "samples": samples, "seed": _SEED}
        store, is_main = Store(self.folder, warn=self._warn), self.accelerator.is_main_process
        part = f"students/{folder.name}/measured"
        broadcast_object_list(found := [store.read(part, identity) if is_main else None])
        value = found[0]
        if not isinstance(value, dict):
            value = self._made(name, run, folder, samples)
            if is_main:
                store.write(part, identity, value)
        counts = run.iterations if name != CLOSED_FORM else [0] * len(plan.merges)
        measured = Measurement(**value["measured"])
        return Trained(name, plan, tuple(counts), cost, expected, measured, value["seconds"])

    def _made(self, name: str, run: Distillation, folder: Path, samples: int) -> dict[str, Any]:
        """What is kept of a student: its folder, what it was measured to leave, the seconds."""
        seconds = self._train(name, run)
        student = run.student()
        if self.accelerator.is_main_process:
            saved = fused_student(student, run.teacher.network) if self.asked.fuse_lora else student
            is_trained = name != CLOSED_FORM
            making = Making.of(run, self.spectrum.source, self.prices.told, is_trained)
            given = folder / "student", run.teacher, self.asked.copy_components
            save_student(saved, *given, making)
        found = evaluate_student(
            run.teacher,
            student,
            samples,
            _SEED,
            num_resamples=0,
            told=told_of(student, self.inputs),
        )
        return {"measured": asdict(found.paired_rms), "seconds": seconds}

    def _train(self, name: str, run: Distillation) -> float:
        """Train all stages, or solve them; the seconds that it took, interruptions apart."""
        begin = time.perf_counter()
        if name == CLOSED_FORM:
            run.solve()
            return time.perf_counter() - begin
        run.resume()
        total = sum(run.iterations)
        for record in run.run():
            self._report(f"training {name}", record.step, total)
        return time.perf_counter() - begin


def children_of(merges: Iterable[Merge]) -> list[int]:
    """Operators that each merge replaces."""
    return [merge.num_children for merge in merges]


def cost_of(merges: Sequence[Merge], cost: IterationCost) -> float:
    """What an iteration of each of the merges costs together, in the long run."""
    return float(cost.per_iteration(children_of(merges), cost.guided(merges)).sum())
