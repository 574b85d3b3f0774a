"""Budgets: split by bisection as by the library, and spent to the last forward pass."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from strategies import plans

from opmerge import Plan, build_strategy, cosine_schedule
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation import Distillation, executor
from opmerge.distillation.stages import plan_effort, plan_stages
from opmerge.errors import InputError
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.types import read_budget, read_split

BATCH = 8


def settings(budget: str, **given: Any) -> DistillationConfig:
    optimization = OptimizationConfig(train_batch_size=BATCH, checkpointing_steps=0)
    return DistillationConfig(budget=budget, **given, optimization=optimization)


def small_run(**given: Any) -> Distillation:
    teacher = Teacher(
        MLPDenoiser((4,), hidden_size=8, num_layers=1),
        DDIM.from_schedule(cosine_schedule(4), "v_prediction"),
        (4,),
    )
    optimization = OptimizationConfig(train_batch_size=BATCH, checkpointing_steps=0)
    config = DistillationConfig(**given, optimization=optimization)
    plan, data = build_strategy("vanilla", 4), DataInputs(torch.randn(16, 4))
    return Distillation(teacher, plan, data, config, Accelerator(cpu=True))


def iterations(plan: Plan, budget: str, **given: Any) -> tuple[int, ...]:
    return plan_effort(plan_stages(plan), settings(budget, **given)).iterations


@given(plans(12), st.sampled_from(["even", "length", "length:0.5", "length:3"]), st.data())
def test_a_split_is_that_of_bisection(plan: Plan, split: str, data: st.DataObject) -> None:
    """The largest scale at which no merge of at least one iteration exceeds the budget."""
    assume(plan.merges)
    lengths = np.array([merge.start - merge.stop for merge in plan.merges], dtype=float)
    costs = np.array([merge.num_children + 3 for merge in plan.merges]) * BATCH
    total = data.draw(st.integers(int(costs.sum()), 1000 * int(costs.sum())))
    weights = lengths ** read_split(split)

    def beyond(scale: float) -> float:
        return float(np.maximum(1, scale * weights) @ costs - total)

    scale = brentq(beyond, 0, total, xtol=1e-12, rtol=1e-15)
    counts = np.array(iterations(plan, str(total), budget_split=split))
    assert counts @ costs <= total * (1 + 1e-9)
    # one below where rounding decides
    assert np.all(np.abs(counts - np.maximum(1, np.floor(scale * weights))) <= 1)
    assert total - counts @ costs < costs.sum() * (1 + 1e-9)  # less than an iteration of each


def test_even_is_the_same_for_all_and_length_a_power() -> None:
    progressive = build_strategy("progressive", 8)  # spans 2, 2, 4, 2, 2, 4, 8 in its order
    assert iterations(progressive, "70it", budget_split="even") == (10,) * 7
    assert iterations(progressive, f"{7 * 10 * 5 * BATCH}", budget_split="even") == (10,) * 7
    linear = iterations(progressive, "300it", budget_split="length:1")
    assert linear == (25, 25, 50, 25, 25, 50, 100)


def test_seconds_are_split_as_evaluations_are() -> None:
    plan = build_strategy("uniform:2", 8)
    effort = plan_effort(plan_stages(plan), settings("2m", budget_split="length:2"))
    assert effort.seconds is not None
    assert sum(effort.seconds) == pytest.approx(120)
    spent = [5 * (merge.start - merge.stop) ** 2 for merge in plan.merges]
    assert np.array(effort.seconds) / 120 == pytest.approx(np.array(spent) / sum(spent))


@pytest.mark.parametrize("reuse", [1, 4])
def test_a_budget_is_what_the_networks_are_asked(reuse: int) -> None:
    """An iteration asks the student once, and its children once in ``reuse`` iterations.

    κ = 3 counts the student's way back too, so it is three evaluations for one pass.
    """
    plan, asked, learned = build_strategy("uniform:2", 8), 0, list[float]()
    network = MLPDenoiser((4,), hidden_size=8, num_layers=1)
    schedule = DDIM.from_schedule(cosine_schedule(8), "v_prediction")

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal asked
        asked += len(inputs[0])
        if module.training or torch.is_grad_enabled():
            learned.append(float(inputs[0].sum()))

    network.register_forward_pre_hook(count)  # students are copies of it, hook and all
    teacher, data = Teacher(network, schedule, (4,)), torch.randn(16, 4)
    config = settings("20000", target_reuse=reuse)
    run = Distillation(teacher, plan, DataInputs(data), config, Accelerator(cpu=True))
    counts = run.iterations
    for _ in run.run():
        pass
    children = [merge.num_children for merge in plan.merges]
    batches = [math.ceil(n / reuse) for n in counts]
    passes = sum(n + k * m for n, k, m in zip(counts, batches, children, strict=True))
    assert asked == BATCH * passes
    cost = BATCH * sum(n * (m / reuse + 3) for n, m in zip(counts, children, strict=True))
    assert 20000 - BATCH * sum(m / reuse + 3 for m in children) < cost <= 20000
    times = Counter(learned).values()
    assert len(times) == sum(batches)
    assert max(times) == reuse
    assert sum(times) == sum(counts)


def test_targets_are_taken_in_another_order_in_every_pass() -> None:
    run = small_run(target_reuse=3)
    order = [run._reused(iteration, 50) for iteration in range(150)]
    passes = [order[:50], order[50:100], order[100:]]
    assert passes[0] == list(range(50))
    assert all(sorted(one) == passes[0] for one in passes)
    assert passes[1] != passes[2] != passes[0] != passes[1]


def test_targets_that_do_not_fit_are_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "MEMORY_LIMIT", 2 * 4 * BATCH * 4 * 10)  # ten batches
    small_run(target_reuse=2, num_iterations=20)
    with pytest.raises(InputError, match="target_reuse=3` or more") as refused:
        small_run(target_reuse=2, num_iterations=21)
    assert refused.value.argument == "target_reuse"
    small_run(target_reuse=3, num_iterations=21)
    small_run(target_reuse=1, num_iterations=21)


def test_targets_that_grow_are_not_used_again() -> None:
    with pytest.raises(InputError, match="must be 1 with a curriculum"):
        small_run(target_reuse=2, curriculum="linear")


def test_a_plan_that_merges_nothing_spends_nothing() -> None:
    assert iterations(Plan.from_nested([3, 2, 1]), "1") == ()


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("3e9", 3e9, "evaluations"),
        ("1e+3", 1e3, "evaluations"),
        ("5000it", 5000, "iterations"),
        ("30s", 30, "seconds"),
        ("90m", 5400, "seconds"),
        ("1.5h", 5400, "seconds"),
    ],
)
def test_units_are_read(text: str, amount: float, unit: str) -> None:
    assert read_budget(text) == (amount, unit)
    assert settings(text).budget == text


@pytest.mark.parametrize("text", ["0", "-1", "0h", "nan", "inf", "1e999", "3d", "1.2.3", "h", ""])
def test_no_budget_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError) as refused:
        settings(text)
    assert refused.value.argument == "budget"


@pytest.mark.parametrize("split", ["", "law", "length:", "length:-1", "even:2", "length:nan"])
def test_no_split_is_refused_by_name(split: str) -> None:
    assert math.isnan(read_split(split))
    with pytest.raises(InputError) as refused:
        settings("10it", budget_split=split)
    assert refused.value.argument == "budget_split"


def test_less_than_an_iteration_of_each_merge_is_refused() -> None:
    plan = build_strategy("boot", 4)
    assert iterations(plan, "3it") == (1, 1, 1)
    with pytest.raises(InputError, match="must be >= 3 iterations"):
        iterations(plan, "2it")
