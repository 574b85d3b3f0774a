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
from strategies import plans

from opmerge import Plan, build_strategy, cosine_schedule
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation import Distillation, targets
from opmerge.distillation.stages import plan_effort, plan_stages
from opmerge.distillation.targets import StageTargets
from opmerge.errors import InputError
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.types import read_budget, read_split

BATCH = 8


def settings(budget: str, **given: Any) -> DistillationConfig:
    optimization = OptimizationConfig(train_batch_size=BATCH, checkpointing_steps=0)
    return DistillationConfig(
        **{"budget": budget, "target_reuse": 1, **given}, optimization=optimization
    )


def small_run(warn: Any = None, rate: float = 3e-4, **given: Any) -> Distillation:
    torch.manual_seed(0)
    teacher = Teacher(
        MLPDenoiser((4,), hidden_size=8, num_layers=1),
        DDIM.from_schedule(cosine_schedule(4), "v_prediction"),
        (4,),
    )
    optimization = OptimizationConfig(
        train_batch_size=BATCH, checkpointing_steps=0, learning_rate=rate, lr_warmup_steps=0
    )
    config = DistillationConfig(**given, optimization=optimization)
    plan, data = build_strategy("vanilla", 4), DataInputs(torch.randn(16, 4))
    told = {} if warn is None else {"warn": warn}
    return Distillation(teacher, plan, data, config, Accelerator(cpu=True), **told)


def iterations(plan: Plan, budget: str, **given: Any) -> tuple[int, ...]:
    return plan_effort(plan_stages(plan), settings(budget, **given)).iterations


@given(
    plans(8),
    st.sampled_from(["even", "length", "length:0.5", "length:3"]),
    st.integers(1, 5),
    st.floats(1, 40),
)
def test_a_split_is_the_largest_that_the_budget_pays(
    plan: Plan, split: str, reuse: int, times: float
) -> None:
    """By brute force over every scale at which a merge gets one iteration more."""
    assume(plan.merges)
    spans = [merge.start - merge.stop for merge in plan.merges]
    children = np.array([merge.num_children for merge in plan.merges])
    weights = np.array(spans, dtype=float) ** read_split(split)

    def cost(counts: Any) -> int:
        return int(BATCH * (np.ceil(counts / reuse) @ children + 3 * counts.sum()))

    total = int(times * cost(np.ones(len(spans))))
    best = np.ones(len(spans))
    scales = sorted(n / weight for weight in weights for n in range(1, total // (3 * BATCH) + 2))
    for scale in scales:
        counts = np.maximum(1, np.floor(scale * (1 + 1e-12) * weights))
        if cost(counts) > total:
            break
        best = counts
    given = {"budget_split": split, "target_reuse": reuse}
    assert iterations(plan, str(total), **given) == tuple(best.astype(int))


def test_merges_of_one_scale_get_their_iteration_together() -> None:
    """Spans 2, 4 and 6 under p = 3 have 3, 24 and 81 from one scale on; below it 2, 23 and 80."""
    plan = Plan.from_nested([[[[6, 5], 4, 3], 2, 1]])
    below, at = (BATCH * np.dot(counts, (5, 6, 6)) for counts in ((2, 23, 80), (3, 24, 81)))
    split = {"budget_split": "length:3"}
    assert {iterations(plan, str(total), **split) for total in range(below, at)} == {(2, 23, 80)}
    assert iterations(plan, str(at), **split) == (3, 24, 81)


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


@pytest.mark.parametrize("linear_part", ["solve", "train"])
@pytest.mark.parametrize("reuse", [1, 4])
def test_a_budget_is_what_the_networks_are_asked(reuse: int, linear_part: str) -> None:
    """An iteration asks the student once, and its children once in ``reuse`` iterations.

    κ = 3 counts the student's way back too, so it is three evaluations for one pass. To solve the
    linear part the student's copy is asked once of every target. Where targets are used again, a
    batch that was not learned from, and one that was, tell at the end if they are known by heart.
    """
    solved = int(linear_part == "solve")
    plan, asked, learned = build_strategy("uniform:2", 4), 0, list[float]()
    network = MLPDenoiser((4,), hidden_size=8, num_layers=1)
    schedule = DDIM.from_schedule(cosine_schedule(4), "v_prediction")

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal asked
        asked += len(inputs[0])
        if module.training or torch.is_grad_enabled():
            learned.append(float(inputs[0].sum()))

    network.register_forward_pre_hook(count)  # students are copies of it, hook and all
    teacher, data = Teacher(network, schedule, (4,)), torch.randn(16, 4)
    config = settings("6000", target_reuse=reuse, linear_part=linear_part)
    run = Distillation(teacher, plan, DataInputs(data), config, Accelerator(cpu=True))
    counts = run.iterations
    for _ in run.run():
        pass
    children = [merge.num_children + solved for merge in plan.merges]
    batches = [math.ceil(n / reuse) for n in counts]
    passes = sum(n + k * m for n, k, m in zip(counts, batches, children, strict=True))
    watched = sum(merge.num_children + 2 for merge in plan.merges) if reuse > 1 else 0
    assert asked == BATCH * (passes + watched)
    cost = passes + 2 * sum(counts)  # κ = 3
    assert 6000 - sum(m + 3 for m in children) * BATCH < cost * BATCH <= 6000
    times = Counter(learned).values()
    assert len(times) == sum(batches)
    assert max(times) == reuse
    assert sum(times) == sum(counts)


@pytest.mark.parametrize(
    ("plan", "uses"),
    [
        (build_strategy("vanilla", 64), [16]),
        (build_strategy("vanilla", 12), [12]),
        (build_strategy("uniform:4", 8), [4, 4, 2]),
        (build_strategy("boot", 4), [2, 2, 2]),
    ],
)
def test_auto_uses_a_target_as_often_as_a_merge_has_children(plan: Plan, uses: list[int]) -> None:
    """At most 16 times; with a curriculum once. The budget and the cost know of it."""
    stages, auto = plan_stages(plan), settings("1e5", target_reuse="auto")
    assert [stage.reuse(auto) for stage in stages] == uses
    curriculum = settings("1e5", target_reuse="auto", curriculum="linear")
    assert [stage.reuse(curriculum) for stage in stages] == [1] * len(uses)
    counts = iterations(plan, "1e5", target_reuse="auto")
    children = [merge.num_children for merge in plan.merges]
    cost = [
        BATCH * (math.ceil(n / r) * m + 3 * n)
        for n, r, m in zip(counts, uses, children, strict=True)
    ]
    efforts = zip(stages, counts, strict=True)
    assert [BATCH * stage.network_evaluations(n, auto) for stage, n in efforts] == cost
    assert 0.99e5 < sum(cost) <= 1e5
    if len(set(uses)) == 1:  # and so as if it were given
        assert counts == iterations(plan, "1e5", target_reuse=uses[0])
    assert auto.what_decides(1) != settings("1e5").what_decides(1)
    once = settings("1e5", curriculum="linear")
    assert curriculum.what_decides(1) == once.what_decides(1)


def test_targets_are_taken_in_another_order_in_every_pass() -> None:
    run = small_run(num_iterations=150, target_reuse=3, linear_part="train")
    reused = StageTargets(run.targets, run.stages[0], 0, 150)
    order = [id(reused(iteration)) for iteration in range(150)]  # the same batches, as objects
    passes = [order[:50], order[50:100], order[100:]]
    assert len(set(order)) == 50
    assert all(set(one) == set(order) for one in passes)
    assert passes[1] != passes[2] != passes[0] != passes[1]


def test_as_many_targets_are_kept_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * 4 * BATCH * 4  # states and estimates of four float32 values
    monkeypatch.setattr(targets, "MEMORY_LIMIT", 10 * size)
    said: list[str] = []
    run = small_run(said.append, num_iterations=30, target_reuse=2)
    assert run.targets.kept(20, 2) == (10, 10 * size)
    assert run.targets.kept(30, 2) == (10, 10 * size)
    assert sum(1 for _ in run.run()) == 30
    assert sum("learned from 3 times each" in line for line in said) == 1
    assert small_run(num_iterations=30, linear_part="train").targets.kept(30, 1) == (0, 0)
    assert small_run(num_iterations=30).targets.kept(8, 1) == (8, 8 * size)
    assert small_run(num_iterations=30).targets.kept(30, 1) == (10, 10 * size)


@pytest.mark.parametrize("linear_part", ["train", "solve"])
def test_a_network_that_learns_by_heart_is_told_of(linear_part: str) -> None:
    """8 targets of noise are learned exactly, and say nothing of others; 4,000 are not."""
    said: list[str] = []
    given: dict[str, Any] = {"num_iterations": 500, "linear_part": linear_part}
    for reuse in (2, 500):
        run = small_run(said.append, target_reuse=reuse, rate=3e-2, **given)
        run.targets.fewest = 1  # of more, a solved linear part would need 40 targets
        run.targets._target = lambda merges, batch: 100 * batch.z.sin()  # type: ignore[method-assign]
        list(run.run())
    (line,) = said
    assert line.startswith("4 → 0: the loss on targets that were not learned from is ")
    assert float(line.split(" is ")[1].split(" times")[0]) > 2


def test_settings_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="must be 1 with a curriculum"):
        DistillationConfig(target_reuse=2, curriculum="linear")
    with pytest.raises(InputError, match="`linear_part` must be train with a curriculum"):
        DistillationConfig(linear_part="solve", curriculum="linear")
    with pytest.raises(InputError, match="must not be given together with budget"):
        DistillationConfig(budget="2h", merge_seconds=3)


def test_the_same_budget_in_other_words_is_the_same_run() -> None:
    one, other = settings("20s"), settings("20.0 s", budget_split="length:1.75")
    assert one.what_decides(1) == other.what_decides(1)
    for changed in (settings("21s"), settings("20it"), settings("20s", budget_split="even")):
        assert changed.what_decides(1) != one.what_decides(1)


def test_a_plan_that_merges_nothing_spends_nothing() -> None:
    assert iterations(Plan.from_nested([3, 2, 1]), "1") == ()


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("3e9", 3e9, "evaluations"),
        ("3E9", 3e9, "evaluations"),
        ("1e+3", 1e3, "evaluations"),
        ("5000it", 5000, "iterations"),
        ("30s", 30, "seconds"),
        ("90m", 5400, "seconds"),
        ("1.5 h", 5400, "seconds"),
        ("2d", 172800, "seconds"),
    ],
)
def test_units_are_read(text: str, amount: float, unit: str) -> None:
    assert read_budget(text) == (amount, unit)
    assert settings(text).budget == text


@pytest.mark.parametrize(
    "text", ["0", "-1", "0h", "nan", "inf", "1e999", "2e18", "3w", "1.2.3", "h", ""]
)
def test_no_budget_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError) as refused:
        settings(text)
    assert refused.value.argument == "budget"


@pytest.mark.parametrize(
    "split", ["", "law", "length:", "length:-1", "even:2", "length:nan", "length:11"]
)
def test_no_split_is_refused_by_name(split: str) -> None:
    assert not 0 <= read_split(split) <= 10
    with pytest.raises(InputError) as refused:
        settings("10it", budget_split=split)
    assert refused.value.argument == "budget_split"


def test_less_than_an_iteration_of_each_merge_is_refused() -> None:
    plan = build_strategy("boot", 4)
    assert iterations(plan, "3it") == (1, 1, 1)
    with pytest.raises(InputError, match="must be >= 3 iterations"):
        iterations(plan, "2it")
