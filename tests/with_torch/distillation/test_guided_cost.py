"""What guidance costs: as the network counts its evaluations, in every part that spends any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opmerge import cosine_schedule
from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.guidance import Guidance
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.stages import TargetLimits, plan_stages
from opmerge.forecast.cost import IterationCost, operator_passes
from opmerge.measure.calibration_budget import size_within
from opmerge.measure.probes import (
    ProbeRunner,
    ProbeSettings,
    measuring_evaluations,
    training_work,
)
from opmerge.measure.teacher_table import measure_table, table_evaluations
from opmerge.plans import Plan, build_strategy
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.spectra import Spectrum, eigenvalue_spectrum

T, D, BATCH = 8, 2, 20
EVERYWHERE, SOME = range(1, T + 1), range(3, 7)


class Counter:
    """Rows that a network and all copies of it were asked for: with a gradient, and without."""

    def __init__(self, network: nn.Module) -> None:
        self.trained = self.read = 0
        network.register_forward_pre_hook(self.count)

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self.trained += len(inputs[0])
        else:
            self.read += len(inputs[0])

    def __deepcopy__(self, memory: object) -> Counter:
        return self

    @property
    def evaluations(self) -> int:
        """κ = 3 for a student's forward and backward pass."""
        return self.read + 3 * self.trained


def a_teacher(steps: range = EVERYWHERE) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLPDenoiser([D], 8, 1, num_classes=3, null_class=True)
        nn.init.normal_(network.proj_out.weight)  # which is 0 at first: a class would not count
    guidance = Guidance(2.0, Condition({"class_labels": torch.tensor([3])}), steps)
    ddim = DDIM.from_schedule(cosine_schedule(T), "v_prediction")
    return Teacher(network, ddim, (D,), class_rows(3), guidance=guidance if len(steps) else None)


def inputs(count: int = 400) -> DataInputs:
    rng = torch.Generator().manual_seed(0)
    return DataInputs(torch.randn(count, D, generator=rng), torch.arange(count) % 3)


def a_run(teacher: Teacher, plan: Plan, **given: Any) -> Distillation:
    optimization = OptimizationConfig(train_batch_size=BATCH, checkpointing_steps=0)
    given = {"num_iterations": 6, "linear_part": "train", "target_reuse": 1, **given}
    config = DistillationConfig(**given, optimization=optimization)
    return Distillation(teacher, plan, inputs(), config, Accelerator(cpu=True))


def with_free_step(name: str, landing: int) -> Plan:
    return Plan(build_strategy(name, landing).students, T)


@pytest.mark.parametrize(
    ("plan", "settings", "steps"),
    [
        (build_strategy("boot", T), {}, SOME),
        (build_strategy("consistency", T), {"linear_part": "solve"}, EVERYWHERE),
        (build_strategy("progressive", T), {"sharing": "round"}, SOME),
        (build_strategy("uniform:4", T, 2), {"num_iterations": (6, 4)}, EVERYWHERE),
        (build_strategy("hybrid:4", T), {"curriculum": "linear"}, SOME),
        (build_strategy("vanilla", T), {"curriculum": "doubling"}, SOME),
        (build_strategy("vanilla", T), {}, range(0)),
        (with_free_step("progressive", 4), {}, SOME),
        (build_strategy("progressive", T), {"budget": "30000"}, EVERYWHERE),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_a_distillation_costs_what_its_network_counts(
    plan: Plan, settings: dict[str, Any], steps: range
) -> None:
    """Guided steps of the teacher take two passes, students and the others one."""
    told = estimate_cost(a_run(a_teacher(steps), plan, **settings))
    teacher = a_teacher(steps)
    counter = Counter(teacher.network)
    run = a_run(teacher, plan, **settings)
    for _ in run.run():
        pass
    if settings.get("sharing") == "round":  # children are drawn: of equal numbers, on average
        assert counter.trained == BATCH * told.num_iterations
        assert counter.evaluations == pytest.approx(told.network_evaluations, rel=0.1)
    elif "curriculum" in settings:  # means over the iterations
        assert counter.evaluations == pytest.approx(told.network_evaluations, rel=1e-12)
    else:
        assert counter.evaluations == told.network_evaluations
    if "budget" in settings:
        longest = BATCH * (8 + 3)  # what one more iteration of a merge costs at most
        assert 30_000 - 7 * longest < counter.evaluations <= 30_000


def test_guidance_doubles_what_vanilla_pays_for_targets() -> None:
    plan = build_strategy("vanilla", T)
    costs = [estimate_cost(a_run(a_teacher(steps), plan)) for steps in (range(0), SOME, EVERYWHERE)]
    passes = [each.network_evaluations / (6 * BATCH) - 3 for each in costs]
    assert passes == [T, T + 4, 2 * T]


@pytest.mark.parametrize("linear_part", ["train", "solve"])
@pytest.mark.parametrize("name", ["vanilla", "boot", "progressive", "uniform:3"])
def test_the_planners_cost_is_that_of_the_run(name: str, linear_part: Any) -> None:
    plan = build_strategy(name, T)
    counts = tuple(5 + 7 * number for number in range(len(plan.merges)))
    config = DistillationConfig(linear_part=linear_part, target_reuse="auto")
    efforts = [*zip(plan_stages(plan), counts, strict=True)]
    for steps in (range(0), SOME, EVERYWHERE):
        for fewest in (1, 4):  # batches from which a linear part is solved
            solved, limits = linear_part == "solve", TargetLimits(steps, fewest=fewest)
            given = {"guided_steps": steps, "fewest": fewest if solved else 0}
            cost = IterationCost(BATCH, "auto", solved, **given)
            spent = sum(stage.network_evaluations(n, config, limits) for stage, n in efforts)
            assert cost.of_plan(plan, counts) == BATCH * spent


def test_passes_of_operators() -> None:
    assert operator_passes((8, 7, 6, 4, 3), range(6, 8)).tolist() == [1, 2, 1, 1]
    assert operator_passes((8, 7, 6, 4, 3), EVERYWHERE).tolist() == [2, 2, 1, 2]
    assert operator_passes((8, 0), EVERYWHERE).tolist() == [1]
    assert IterationCost(guided_steps=SOME).teacher_passes(T, 0) == T + 4


def a_spectrum() -> Spectrum:
    whole = eigenvalue_spectrum([1.5, 0.5])
    return replace(whole, mean=np.zeros(D), basis=np.eye(D), kind="full")


@pytest.mark.parametrize("steps", [EVERYWHERE, SOME, range(0)])
def test_a_table_costs_what_its_network_counts(steps: range) -> None:
    teacher = a_teacher(steps)
    counter = Counter(teacher.network)
    found = measure_table(teacher, inputs(), a_spectrum(), Accelerator(cpu=True), num_samples=130)
    expected = table_evaluations(teacher, a_spectrum(), 130)
    assert found.network_evaluations == counter.read == expected


@pytest.mark.parametrize("steps", [EVERYWHERE, SOME, range(0)])
@pytest.mark.parametrize("settings", [(T, 0, 0), (T, 0, 4), (5, 2, 0)])
def test_a_probe_costs_what_its_network_counts(
    steps: range, settings: tuple[int, int, int]
) -> None:
    start, stop, students = settings
    probe = ProbeSettings(start, stop, 3, 1e-3, students=students, num_states=70)
    teacher, accelerator = a_teacher(steps), Accelerator(cpu=True)
    counter = Counter(teacher.network)
    optimization = OptimizationConfig(train_batch_size=BATCH)
    config = DistillationConfig(linear_part="train", target_reuse=1, optimization=optimization)
    runner = ProbeRunner(teacher, inputs(), inputs(), a_spectrum(), config, accelerator)
    *_, found = runner.run(probe)
    assert found is not None
    assert counter.evaluations == found.network_evaluations
    targets, iterations = training_work(teacher, probe, config)
    spent = BATCH * (targets + 3 * iterations) + measuring_evaluations(teacher, probe)
    assert spent == found.network_evaluations
    # only of a guided step the student that starts with its weights is another denoiser
    assert bool(found.untrained) == (start in steps and not students)


def test_a_calibration_keeps_within_its_budget(tmp_path: Path) -> None:
    config = DistillationConfig(
        linear_part="train",
        target_reuse=1,
        optimization=OptimizationConfig(train_batch_size=BATCH),
    )
    given = inputs(), a_spectrum(), config, Accelerator(cpu=True), tmp_path
    counts = []
    for steps in (range(0), EVERYWHERE):
        teacher = a_teacher(steps)
        size = size_within("300000", teacher, *given)
        spent = table_evaluations(teacher, a_spectrum(), size.table_samples)
        for probe in size.probes:
            targets, iterations = training_work(teacher, probe, config)
            spent += BATCH * (targets + 3 * iterations) + measuring_evaluations(teacher, probe)
        assert size.cost == pytest.approx(spent)
        assert spent <= 300_000
        counts.append(max(probe.num_iterations for probe in size.probes))
    assert counts[1] < 0.9 * counts[0]
