"""One network for all merges: which it trains when, against a simulation, the theory and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import plans
from test_executor import (
    COUNT,
    EIGENVALUES,
    RATE,
    RULES,
    D,
    Design,
    closed_form,
    descent,
    distil,
    distillation,
    factors,
    linear_teacher,
)

from opmerge import Plan, build_strategy, cosine_schedule
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.pipeline import load_student, save_student
from opmerge.distillation.stages import Rehearsal, Stage, plan_effort, plan_stages
from opmerge.distillation.timing import Pace
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@given(plans(max_steps=14))
def test_nothing_that_is_needed_later_is_left_untrained(plan: Plan) -> None:
    """After each stage the one network reads every operator of its own that is in place."""
    in_place: dict[tuple[int, int], str] = {(t, t - 1): "teacher" for t in range(1, 15)}
    leaves = {(tree.start, tree.stop) for tree in plan.students if not tree.merges}
    executed = []
    for stage in plan_stages(plan, "all"):
        assert len({merge.start for merge in stage.merges}) == len(stage.merges)
        executed += stage.new
        own = {operator for operator, network in in_place.items() if network == "student"}
        for merge in stage.new:
            for operator in zip(merge.boundaries, merge.boundaries[1:], strict=False):
                del in_place[operator]  # KeyError: it was not there
                own.discard(operator)
        rehearsed = {
            (merge.start, merge.stop): merge.is_teachers
            for merge in stage.merges
            if isinstance(merge, Rehearsal)
        }
        assert rehearsed.keys() == own | leaves
        for operator, is_teachers in rehearsed.items():
            assert is_teachers == (in_place[operator] == "teacher")
        in_place |= dict.fromkeys(((m.start, m.stop) for m in stage.merges), "student")
        assert stage.networks_after == 1
    assert sorted(m.boundaries for m in executed) == sorted(m.boundaries for m in plan.merges)
    if plan.merges:
        steps = {(tree.start, tree.stop) for tree in plan.students}
        assert {in_place[step] for step in steps} == {"student"}


PLANS = {
    "progressive": build_strategy("progressive", 5),
    "two steps": Plan.from_nested([[[6, 5], 4], [3, [2, 1]]]),
    "a leaf": Plan.from_nested([[[5, 4], 3], 2, 1]),
    "of other depths": Plan.from_nested([[[[6, 5], 4], 3], [2, 1]]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PLANS)
def test_a_network_of_separate_weights_ends_where_the_theory_does(name: str, rule: str) -> None:
    """Separate weights a step: what is rehearsed is right already, and nothing disturbs it."""
    plan = PLANS[name]
    most = max(len(stage.merges) for stage in plan_stages(plan, "all"))
    config = descent(rule, sharing="all", optimization={"learning_rate": most * RATE * D})
    teacher = linear_teacher(EIGENVALUES, plan.num_steps)
    student, records = distil(teacher, plan, Design(most), config)
    assert len({jump.network for jump in student.jumps}) == 1
    assert student.jumps[0].network is not teacher.network
    assert len(records) == COUNT * max(plan.rounds())
    np.testing.assert_allclose(factors(student), closed_form(plan, rule), rtol=1e-5)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("curriculum", ["none", "linear"])
def test_a_cost_counts_rehearsals(
    monkeypatch: pytest.MonkeyPatch, name: str, curriculum: Any
) -> None:
    """By the samples that every forward pass really sees, a training step for three."""
    plan = PLANS[name]
    most = max(len(stage.merges) for stage in plan_stages(plan, "all"))
    config = descent(sharing="all", curriculum=curriculum, optimization={"train_batch_size": 1})
    run = distillation(linear_teacher(EIGENVALUES, plan.num_steps), plan, Design(most), config)
    monkeypatch.setattr(run, "pace", lambda report=None: Pace(0.0, 0.0, 1.0))
    cost = estimate_cost(run)
    seen = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0]) * (3 if torch.is_grad_enabled() else 1)

    run.teacher.network.register_forward_pre_hook(count)
    for _ in run.run():
        pass
    assert all(most % len(stage.merges) == 0 for stage in run.stages)  # a design is drawn evenly
    assert seen == pytest.approx(cost.network_evaluations * most * 2 * D)


def test_a_budget_gives_each_merge_what_its_length_asks_for() -> None:
    """Stages of several merges and rehearsals get as many times the iterations."""
    plan = PLANS["of other depths"]
    stages = plan_stages(plan, "all")
    assert [[m.boundaries for m in stage.merges] for stage in stages] == [
        [(6, 5, 4), (2, 1, 0)],
        [(6, 4, 3), (2, 0)],
        [(6, 3, 2), (2, 0)],
    ]
    config = DistillationConfig(budget="60000it", sharing="all", budget_split="length:1")
    counts = plan_effort(stages, config).iterations
    assert sum(counts) == pytest.approx(60000, abs=3)
    assert np.array(counts) / counts[0] == pytest.approx(np.array([2, 3, 4]) / 2, rel=1e-3)


def a_run(folder: Path | None, **given: Any) -> Distillation:
    optimization = OptimizationConfig(
        train_batch_size=8,
        learning_rate=1e-2,
        ema_decay=0.9,
        checkpointing_steps=1,
        checkpoints_total_limit=99,
    )
    config = DistillationConfig(
        **{"num_iterations": 4, "sharing": "all", **given}, optimization=optimization
    )
    torch.manual_seed(0)
    network = MLPDenoiser((4,), hidden_size=16, num_layers=1)
    torch.nn.init.normal_(network.proj_out.weight, std=0.3)
    teacher = Teacher(network, DDIM.from_schedule(cosine_schedule(6), "v_prediction"), (4,))
    data = DataInputs(torch.linspace(-2, 2, 64).reshape(16, 4).sin())
    accelerator = make_accelerator(optimization, cpu=True)
    return Distillation(teacher, PLANS["of other depths"], data, config, accelerator, folder)


@pytest.mark.parametrize("given", [{}, {"linear_part": "train"}, {"lora_rank": 2}])
def test_every_checkpoint_leads_to_the_same_end(tmp_path: Path, given: dict[str, Any]) -> None:
    run = a_run(tmp_path, **given)
    steps = [record.step for record in run.run()]
    noise = torch.randn(5, 4)
    whole = run.student().sample(noise)
    for step in steps[::3] + steps[-1:]:
        again = a_run(tmp_path, **given)
        assert again.resume(f"checkpoint-{step}") == step
        assert [record.step for record in again.run()] == steps[step:]
        assert torch.equal(again.student().sample(noise), whole)


def test_what_is_rehearsed_is_not_forgotten() -> None:
    """What the step 2 → 0, of round 1, says: as it was then, and after two more rounds."""
    errors = []
    for rehearses in (True, False):
        run = a_run(None, num_iterations=150, linear_part="train", target_reuse=1)
        if not rehearses:
            run.stages = tuple(Stage(stage.new, 1) for stage in run.stages)
        z = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
        after_round_1 = next(record for record in run.run() if record.stage == 1)
        assert after_round_1.iteration == 1
        before = run.student().jumps[-1]
        assert (before.start, before.stop) == (2, 0)
        told = before.denoiser(z, 2).x0
        for _ in run.run():
            pass
        last = run.student().jumps[0].denoiser
        errors.append(float((last(z, 2).x0 - told).square().mean()))
    assert errors[0] < errors[1] / 4


def test_one_network_is_saved_once(tmp_path: Path) -> None:
    run = a_run(None)
    for _ in run.run():
        pass
    folder = save_student(run.student(), tmp_path / "student")
    assert [path.parent.name for path in folder.rglob("*.safetensors")].count("unet") == 1
    assert not (folder / "unet_2").exists()
    noise = torch.randn(5, 4)
    assert torch.equal(load_student(folder).sample(noise), run.student().sample(noise))
