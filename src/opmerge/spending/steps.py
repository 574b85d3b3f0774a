"""The steps of spending: each is kept in the run's folder, and done once however often it is asked.

A share of the budget goes to the calibration; with the rest, the plan is trained that is forecast
to leave least. Others beside it are trained at the same total, so what planning costs counts.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.executor import settled
from opmerge.distillation.free_step import num_batches, num_runs
from opmerge.distillation.stages import iterations_of_stages, plan_stages
from opmerge.forecast import FittedLaw, Trial, forecast, law_after
from opmerge.forecast.cost import IterationCost
from opmerge.measure.calibration_budget import CalibrationSize
from opmerge.measure.teacher_table import table_evaluations
from opmerge.planners.around_budget import CUT_SHORT, PlansAround, plans_around
from opmerge.planners.budget import BudgetPlan
from opmerge.plans import Merge, Plan, build_strategy
from opmerge.settings.commands import SpendingOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum
from opmerge.spending.knowledge import Knowledge, knowledge_of, probes_of, samples_without_probes
from opmerge.spending.order import Order, Report
from opmerge.spending.pilot import successive_halving
from opmerge.spending.prices import priced
from opmerge.spending.rates import learning_rates as usual_rates
from opmerge.spending.students import CLOSED_FORM, RunStudents, Trained
from opmerge.store import Store, digest

_MOST_PLANS = 2
"""In a pilot; the law's ties are alike in all that matters but how they are trained."""

_PILOT_SAMPLES = 500

_FEWEST_PILOTED = 100
"""Iterations of the longest merge of a short run; fewer say more of targets learned by heart."""

_LEAST = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A plan for what is left of the budget, and the learning rate that it is trained with."""

    planned: BudgetPlan
    learning_rate: float


class Spending(Order):
    """One budget for one teacher, spent: what is asked of it is done once.

    ``Spending.of`` prices the budget and decides what the settings leave open.
    """

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        inputs: DataInputs,
        spectrum: Spectrum,
        asked: SpendingOptions,
        config: DistillationConfig,
        accelerator: Accelerator,
        learning_rates: Sequence[float] | None = None,
        report: Report = Order.report,
        warn: Callable[[str], None] = warnings.warn,
    ) -> Spending:
        """What ``opmerge run`` does: the linear part is solved or trained by the kind of network,
        and a pilot chooses the rate (``opmerge.spending.learning_rates``), unless settings say it.

        Raises:
            InputError: for settings that the network cannot follow, and as ``check_budget``.
        """
        config = settled(config, teacher.network)
        if learning_rates is None:
            told = config.optimization.given("learning_rate")
            learning_rates = usual_rates(config) if told is None else (told,)
        report("pricing the budget", 0, 1)
        prices = priced(asked.budget, teacher, inputs, config, accelerator, asked.output_dir)
        given = teacher, inputs, spectrum, asked, config, accelerator, prices
        spending = cls(*given, learning_rates, report, warn)
        spending.check_budget()
        return spending

    def check_budget(self) -> None:
        """Refuse, by ``InputError``, a budget that cannot pay, before any of it is spent: for a
        table with half of it, the cheapest plan with the rest, and what stands beside the plan."""
        spent = self.asked.calibration_share * self.prices.amount
        if self._probes is None:
            samples = samples_without_probes(self)
            is_free = self.prices.counts_iterations
            spent = 0 if is_free else table_evaluations(self.teacher, self.spectrum, samples)
        least = self.prices.cost.least(self.teacher.num_steps, self.asked.student_steps)
        self.prices.check_pays(spent + least, "a forecast and an iteration of any plan")
        for strategy in self.asked.compare_with:
            self._usual(strategy)

    @cached_property
    def _probes(self) -> CalibrationSize | None:
        return probes_of(self)

    @cached_property
    def knowledge(self) -> Knowledge:
        """What forecasts are made from."""
        return knowledge_of(self, self._probes)

    @cached_property
    def students(self) -> RunStudents:
        """All that was trained."""
        return RunStudents(self)

    def student(self, name: str) -> Student:
        """A student that was trained, by its name."""
        return self.students.student(name)

    def student_folder(self, name: str) -> Path:
        """Where that student lies."""
        return self.students.folder_of(name)

    @property
    def not_foretold(self) -> list[str]:
        """What is trained otherwise than all that the law was fitted to, in words."""
        otherwise = {
            "one network for all steps": self.config.sharing == "all",
            "adapters": self.config.lora_rank is not None and not self.knowledge.is_probed,
        }
        return [what for what, holds in otherwise.items() if holds]

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
            "free_runs": self._free_runs,
        }
        found = [None]
        if self.accelerator.is_main_process:
            store = Store(self.folder, warn=self.warn)
            found = [store.kept("plans", identity, lambda: self._search().to_dict())]
        broadcast_object_list(found)
        assert found[0] is not None, "of the first process"
        plans = PlansAround.from_dict(found[0], table, law)
        if plans.is_cut:
            self.warn(f"{CUT_SHORT} (--max_seconds {self.asked.max_seconds:g})")
        return plans

    def _search(self) -> PlansAround:
        table, law, seconds = self.knowledge.table, self.knowledge.law, self.asked.max_seconds
        begin = time.monotonic()

        def tell(done: float, doing: str) -> None:
            self.report("planning", min(time.monotonic() - begin, seconds), seconds)

        given = table, law, self.left, [self.asked.student_steps], self.prices.cost
        return plans_around(*given, seconds / 3, tell, self._free_runs)  # for three searches

    @cached_property
    def chosen(self) -> Candidate:
        """What is trained, with what is expected of it after the pilot."""
        planned = self._piloted.planned
        expected = forecast(self.law, self.knowledge.table, planned.plan, planned.iterations)
        return replace(self._piloted, planned=replace(planned, forecast=expected))

    @cached_property
    def law(self) -> FittedLaw:
        """That of ``knowledge``, and what the pilot's runs at the rate that is taken add to it."""
        rate = self._piloted.learning_rate  # whose short runs are behind it
        trials = self._trials.get(rate, [])
        return law_after(self.knowledge.law, self.knowledge.table, trials)

    @cached_property
    def foretold(self) -> PlansAround:
        """The plans, with what is expected of them after the pilot."""
        return PlansAround.from_dict(self.plans.to_dict(), self.knowledge.table, self.law)

    @cached_property
    def _trials(self) -> dict[float, list[Trial]]:
        """What the pilot's runs left, by learning rate; they add themselves."""
        return {}

    @cached_property
    def _piloted(self) -> Candidate:
        """Of the plans that forecasts do not tell apart, and of the learning rates, those that
        short runs are for."""
        best, ties = self.plans.chosen.best, self.plans.chosen.ties
        plans = [best, *(tie.plan for tie in ties if best.plan.free_step is None)]
        distinct = {planned.plan: planned for planned in reversed(plans[:_MOST_PLANS])}
        candidates = [
            Candidate(planned, rate)
            for planned in reversed(distinct.values())
            for rate in self.learning_rates or (self.config.optimization.learning_rate,)
        ]
        while candidates[1:] and self._of_each(len(candidates)) < self._a_short_run:
            candidates.pop()
        return successive_halving(candidates, self.pilot_budget, self._after_a_short_run)

    def _of_each(self, count: int) -> float:
        """What the first of the short runs of so many candidates may cost."""
        return self.pilot_budget / math.ceil(math.log2(count)) / count

    @property
    def _free_runs(self) -> int:
        """Teacher runs that a free step is fitted to, as far as they are paid for."""
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        return 0 if self.prices.counts_iterations else num_runs(self.teacher, size)

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
        found = self.students.trained(name, planned.plan, config, budget, short, _PILOT_SAMPLES)
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
        return self.students.trained("plan", best.plan, config, best.cost, best.forecast)

    def usual(self, strategy: str) -> Trained:
        """A strategy as people run it, for the whole budget: equal iterations of every merge,
        targets used once, nothing solved; ``InputError`` if it pays for no iteration."""
        plan, count, cost = self._usual(strategy)
        counts: int | tuple[int, ...] = count
        if self.config.sharing == "all" and plan.merges:
            counts = tuple(count * len(stage.merges) for stage in plan_stages(plan, "all"))
        config = self.config.replaced(num_iterations=counts, linear_part="train", target_reuse=1)
        return self.students.trained(strategy, plan, config, cost, None)

    def _usual(self, strategy: str) -> tuple[Plan, int, float]:
        """A strategy's plan, the iterations of each merge, and what they cost together."""
        plan = build_strategy(strategy, self.teacher.num_steps, self.asked.student_steps)
        stages = plan_stages(plan, self.config.sharing)
        each = sum(cost_of(stage.merges, self.prices.usual) for stage in stages)
        self.prices.check_pays(each, f"an iteration of each merge of {strategy}")
        count = int(self.prices.amount // each) if plan.merges else 1
        return plan, count, count * each

    def closed_form(self) -> Trained:
        """One merge a window, its linear part solved and nothing trained."""
        plan = build_strategy("vanilla", self.teacher.num_steps, self.asked.student_steps)
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        batches = num_batches(self.teacher, size)
        config = self.config.replaced(num_iterations=batches, target_reuse=1)
        guided = self.prices.cost.guided(plan.merges)
        each = self.prices.cost.target_evaluations(children_of(plan.merges), guided)
        cost = batches * float(each.sum())
        return self.students.trained(CLOSED_FORM, plan, config, cost, None)


def children_of(merges: Iterable[Merge]) -> list[int]:
    """Operators that each merge replaces."""
    return [merge.num_children for merge in merges]


def cost_of(merges: Sequence[Merge], cost: IterationCost) -> float:
    """What an iteration of each of the merges costs together, in the long run."""
    return float(cost.per_iteration(children_of(merges), cost.guided(merges)).sum())
