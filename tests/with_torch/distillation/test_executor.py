"""The executor against the theory it executes, and every setting against its own arithmetic."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from scipy.linalg import hadamard
from torch import Tensor, nn

from opmerge import (
    GradientDescent,
    Merge,
    Plan,
    Problem,
    build_strategy,
    cosine_schedule,
    eigenvalue_spectrum,
    evaluate,
)
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.inputs import Batch, DataInputs, NoiseInputs
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation, TrainingRecord
from opmerge.distillation.stages import mean_passes, merges_at
from opmerge.distillation.targets import loss_weights
from opmerge.distillation.timing import Pace
from opmerge.errors import InputError
from opmerge.loop import Draws, make_accelerator
from opmerge.problem import MergeRule
from opmerge.schedules import NoiseSchedule, linear_schedule
from opmerge.settings.distillation import (
    Curriculum,
    DistillationConfig,
    OptimizationConfig,
)

pytestmark = pytest.mark.usefixtures("one_thread")

T = 6
EIGENVALUES = np.array([0.2, 0.9, 1.5, 3.0])
D = len(EIGENVALUES)
RATE, COUNT = 0.15, 8  # eta n_t <= 0.45 < 1/2: descent is monotone
RULES = get_args(MergeRule)


class Linear(nn.Module):
    """x̂ = w_t z, a weight for every step and coordinate: the network of the theory."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.calls = 0

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        self.calls += 1
        return self.weights[timesteps] * z


def linear_teacher(eigenvalues: NDArray[Any], num_steps: int = T) -> Teacher:
    """E[x_0 | z_t] = alpha λ / (alpha² λ + sigma²) z_t."""
    ddim = DDIM.from_schedule(cosine_schedule(num_steps), "sample")
    alphas, sigmas = ddim.alphas[:, None], ddim.sigmas[:, None]
    variances = torch.from_numpy(eigenvalues).float()
    weights = alphas * variances / (alphas**2 * variances + sigmas**2)
    return Teacher(Linear(weights), ddim, (len(eigenvalues),))


@dataclass(frozen=True)
class Design:
    """A full batch whose data and noise have exactly the covariances that they should.

    Columns of a Hadamard matrix are orthogonal, so E[x xᵀ] = diag(λ), E[ε εᵀ] = 1, E[x εᵀ] = 0.
    Merges that train together get a copy each, among ``copies``; copies too many are zeros, which
    ask for nothing, so that a merge's share of the mean is the same whoever else is there.
    """

    copies: int = 1
    condition = None

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        columns = torch.from_numpy(hadamard(2 * D)).float()
        x0 = columns[:, :D] * torch.from_numpy(EIGENVALUES).float().sqrt()
        z = [ddim.add_noise(x0, columns[:, D:], start) for start in starts]
        z += [torch.zeros_like(x0)] * (self.copies - len(starts))
        choice = torch.arange(self.copies).repeat_interleave(2 * D) % len(starts)
        return Batch(torch.cat(z), choice if len(starts) > 1 else None)

    def identity(self) -> str:
        return f"design {self.copies}"


def descent(rule: str = "denoiser-copy", **given: Any) -> DistillationConfig:
    """Gradient descent at RATE: the loss is a mean over coordinates, so D times as fast."""
    optimization: dict[str, Any] = {
        "optimizer": "sgd",
        "learning_rate": RATE * D,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_grad_norm": 0.0,
        "checkpointing_steps": 0,
        **given.pop("optimization", {}),
    }
    settings = {
        "num_iterations": COUNT,
        "target_reuse": 1,
        "loss_weighting": "x-space",
        "merge_rule": rule,
        **given,
    }
    return DistillationConfig(**settings, optimization=OptimizationConfig(**optimization))


def distillation(teacher: Teacher, plan: Plan, inputs: Any, config: DistillationConfig) -> Any:
    accelerator = make_accelerator(config.optimization, cpu=True)
    return Distillation(teacher, plan, inputs, config, accelerator)


def distil(
    teacher: Teacher, plan: Plan, inputs: Any, config: DistillationConfig
) -> tuple[Student, list[TrainingRecord]]:
    run = distillation(teacher, plan, inputs, config)
    records = list(run.run())
    return run.student(), records


def factors(student: Student) -> NDArray[Any]:
    """What the student multiplies every coordinate by."""
    return student.sample(torch.ones(1, *student.sample_shape))[0].numpy()


def closed_form(
    plan: Plan, rule: str, eigenvalues: NDArray[Any] = EIGENVALUES, count: int = COUNT
) -> NDArray[Any]:
    """The theory's student, for the eigenvalues in ascending order."""
    problem = Problem(
        eigenvalue_spectrum(eigenvalues),
        cosine_schedule(plan.num_steps),
        GradientDescent(RATE, count),
        rule,  # type: ignore[arg-type]
    )
    excess = evaluate(problem, plan).excess
    return np.exp(excess + problem.teacher.log_products[0])[::-1]


PLANS = {
    **{name: build_strategy(name, T) for name in ("vanilla", "boot", "consistency", "progressive")},
    "hybrid": build_strategy("hybrid:3", T),
    "tree": Plan.from_nested([[[6, [5, 4]], 3, [2, 1]]]),
    "two steps": Plan.from_nested([[[6, 5], 4], [3, [2, 1]]]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PLANS)
def test_a_linear_student_is_that_of_the_theory(name: str, rule: str) -> None:
    plan = PLANS[name]
    student, records = distil(linear_teacher(EIGENVALUES), plan, Design(), descent(rule))
    assert len(student.jumps) == plan.student_steps
    assert len(records) == COUNT * len(plan.merges)
    np.testing.assert_allclose(factors(student), closed_form(plan, rule), rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_steps", [4, 5])
def test_merges_that_share_a_network_do_what_they_do_alone(rule: str, num_steps: int) -> None:
    """Separate weights a step: sharing changes nothing but each merge's share of the batch."""
    plan = build_strategy("progressive", num_steps)
    config = descent(rule, sharing="round", optimization={"learning_rate": 2 * RATE * D})
    student, records = distil(linear_teacher(EIGENVALUES, num_steps), plan, Design(2), config)
    assert len(records) == COUNT * math.ceil(math.log2(num_steps))
    np.testing.assert_allclose(factors(student), closed_form(plan, rule), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rule"), [("boot", "denoiser-copy"), ("consistency", "operator-copy")]
)
def test_minibatches_do_on_average_what_the_full_batch_does(name: str, rule: str) -> None:
    """A merge multiplies its error by Π (1 - 2 η m_k), m_k the batch's mean of z².

    The m_k are independent with mean n_t, so the mean of the product is the retention, and the
    student is affine in each merge's product: its mean is the closed form. Coordinates are
    independent (noise is), as many as there are samples of the mean. With x_0 = ±sqrt(λ) the
    mean of x_0² is λ for any choice of data.
    """
    plan, copies, value = build_strategy(name, 3), 3000, 0.8
    eigenvalues = np.full(copies, value)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (64, copies))
    data = torch.from_numpy(signs * math.sqrt(value)).float()
    count = 5
    config = descent(
        rule,
        num_iterations=count,
        optimization={"learning_rate": RATE * copies, "train_batch_size": 16},
    )
    student, _ = distil(linear_teacher(eigenvalues, 3), plan, DataInputs(data), config)
    found = factors(student)
    expected = closed_form(plan, rule, np.array([value]), count)[0]
    error = found.std(ddof=1) / math.sqrt(copies)
    assert abs(found.mean() - expected) < 4 * error
    # Such a bound would catch one iteration more or less.
    assert abs(closed_form(plan, rule, np.array([value]), count + 1)[0] - expected) > 8 * error


def targets(teacher: Teacher, rule: str) -> dict[int, NDArray[Any]]:
    """x̂ / z_T that lands where the first m teacher steps do, in float64 by the direct formula."""
    schedule = cosine_schedule(teacher.num_steps)
    alphas, sigmas = schedule.alphas, schedule.sigmas
    product, found = np.ones(D), {}
    for t in range(T, 0, -1):
        denoiser = alphas[t] * EIGENVALUES / (alphas[t] ** 2 * EIGENVALUES + sigmas[t] ** 2)
        ratio = sigmas[t - 1] / sigmas[t]
        product = product * (alphas[t - 1] * denoiser + ratio * (1 - alphas[t] * denoiser))
        readout = t - 1 if rule == "denoiser-copy" else T - 1
        ratio = sigmas[readout] / sigmas[T]
        found[T - t + 1] = (product - ratio) / (alphas[readout] - alphas[T] * ratio)
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("curriculum", "lengths"),
    [
        # 2 … 6 in equal parts of the first half (of 10 iterations: 5), or 2, 4, 8 ∧ 6.
        ("linear", [2, 3, 4, 5, 6, 6, 6, 6, 6, 6]),
        ("doubling", [2, 2, 4, 4, 6, 6, 6, 6, 6, 6]),
        ("none", [6] * 10),
    ],
)
def test_a_curriculum_asks_for_more_and_more(
    curriculum: Any, lengths: list[int], rule: str
) -> None:
    teacher = linear_teacher(EIGENVALUES)
    config = descent(rule, num_iterations=10, curriculum=curriculum)
    run = distillation(teacher, PLANS["vanilla"], Design(), config)
    weights = teacher.network.weights[T].double().numpy()
    called = []
    before = teacher.network.calls
    for _ in run.run():
        called.append(teacher.network.calls - before)
        before = teacher.network.calls
    assert called == lengths
    wanted = targets(teacher, rule)
    for length in lengths:  # n_T = 1, as alpha_T = 0
        weights = weights - 2 * RATE * (weights - wanted[length])
    jump = run.student().jumps[0]
    np.testing.assert_allclose(jump.network.weights[T].numpy(), weights, rtol=1e-5)


@pytest.mark.parametrize(("curriculum", "children"), [("linear", 50), ("doubling", 48)])
@pytest.mark.parametrize("seconds", [None, 70.0])
def test_a_cost_counts_what_a_curriculum_asks_for(
    monkeypatch: pytest.MonkeyPatch, curriculum: Any, children: int, seconds: float | None
) -> None:
    """Σ of the lengths above; by a clock on which a pass takes a second and a step two."""
    config = descent(RULES[0], num_iterations=10, curriculum=curriculum, merge_seconds=seconds)
    run = distillation(linear_teacher(EIGENVALUES), PLANS["vanilla"], Design(), config)
    monkeypatch.setattr(run, "pace", lambda report=None: Pace(0.0, 1.0, 2.0))
    cost = estimate_cost(run)
    batch = config.optimization.global_batch_size(1)
    assert cost.network_evaluations == batch * (children + 10 * 3)
    assert cost.seconds == children + 10 * 2
    if seconds is not None:
        run = distillation(linear_teacher(EIGENVALUES), PLANS["vanilla"], Design(), config)
        monkeypatch.setattr(run, "pace", lambda report=None: Pace(0.0, 1.0, 2.0))
        assert len(list(run.run())) == 10


@pytest.mark.parametrize("curriculum", get_args(Curriculum))
@pytest.mark.parametrize("most", [2, 3, 7, 64])
def test_lengths_grow_from_two_to_all_at_half(curriculum: Any, most: int) -> None:
    merge = Merge(tuple(range(most + 1, 0, -1)))
    found = [merges_at([merge], k / 1000, curriculum)[0] for k in range(1000)]
    lengths = [cut.num_children for cut in found]
    assert lengths == sorted(lengths)
    assert lengths[0] == (most if curriculum == "none" else 2)
    assert lengths[499] == most
    assert found[500:] == [merge] * 500
    assert all(cut.boundaries == merge.boundaries[: cut.num_children + 1] for cut in found)
    if curriculum == "linear":
        assert sorted(set(lengths)) == list(range(2, most + 1))
        parts = np.bincount(lengths[:500])[2:]
        assert parts.max() - parts.min() <= 1
    if curriculum == "doubling":
        assert sorted(set(lengths)) == sorted({min(most, 2**k) for k in range(1, 8)})


def test_merges_of_several_lengths_grow_each_to_its_own() -> None:
    merges = [Merge((9, 8, 7)), Merge((7, 6, 5, 4, 3, 2, 1))]
    found = [merges_at(merges, k / 100, "linear") for k in range(100)]
    assert {tuple(m.num_children for m in pair) for pair in found} == {(2, m) for m in range(2, 7)}
    lengths = [merge.num_children for pair in found for merge in pair]
    assert mean_passes(merges, 100, "linear") == np.mean(lengths)


@pytest.mark.parametrize("decay", [0.05, 0.15, 0.999])
def test_the_moving_average_is_what_is_kept(decay: float) -> None:
    """Its decay at update k is min(decay, k / (k + 9)), 0 at the first (diffusers' EMAModel)."""
    teacher = linear_teacher(EIGENVALUES)
    config = descent(optimization={"ema_decay": decay})
    student, _ = distil(teacher, PLANS["vanilla"], Design(), config)
    wanted = targets(teacher, "denoiser-copy")[T]
    weights = teacher.network.weights[T].double().numpy()
    average = np.zeros(D)
    for k in range(COUNT):
        weights = weights - 2 * RATE * (weights - wanted)
        share = min(decay, (k + 1) / (k + 10)) if k else 0.0
        average = share * average + (1 - share) * weights
    found = student.jumps[0].network.weights[T].numpy()
    np.testing.assert_allclose(found, average, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_rises_and_falls_as_it_says(schedule: Any, warmup: int) -> None:
    config = descent(optimization={"lr_scheduler": schedule, "lr_warmup_steps": warmup})
    student, records = distil(linear_teacher(EIGENVALUES), PLANS["vanilla"], Design(), config)
    teacher = linear_teacher(EIGENVALUES)
    weights = teacher.network.weights[T].double().numpy()
    for k, record in enumerate(records):
        done = (k - warmup) / (COUNT - warmup)
        falling = {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        share = k / warmup if k < warmup else falling[schedule]
        assert record.learning_rate == pytest.approx(share * RATE * D, abs=1e-12)
        weights = weights - 2 * RATE * share * (weights - targets(teacher, "denoiser-copy")[T])
    found = student.jumps[0].network.weights[T].numpy()
    np.testing.assert_allclose(found, weights, rtol=1e-5)


def perceptron(num_steps: int = 4, size: int = 16, **given: Any) -> Teacher:
    torch.manual_seed(0)
    network = MLPDenoiser((4,), hidden_size=size, num_layers=1, **given)
    nn.init.normal_(network.proj_out.weight, std=0.3)
    ddim = DDIM.from_schedule(cosine_schedule(num_steps), "v_prediction")
    return Teacher(network, ddim, (4,), class_rows(given.get("num_classes")))


DATA = torch.linspace(-2, 2, 64).reshape(16, 4).sin()


def small(num_iterations: Any = 4, **given: Any) -> DistillationConfig:
    optimization = {"train_batch_size": 8, "checkpointing_steps": 0, "learning_rate": 1e-2}
    optimization |= given.pop("optimization", {})
    settings = {"num_iterations": num_iterations, "target_reuse": 1, **given}
    return DistillationConfig(**settings, optimization=OptimizationConfig(**optimization))


def states(student: Student) -> list[dict[str, Tensor]]:
    return [jump.network.state_dict() for jump in student.jumps]


@pytest.mark.parametrize("sharing", ["merge", "round"])
def test_parts_of_a_batch_make_up_the_whole(sharing: Any) -> None:
    plan = build_strategy("progressive", 4)
    found = []
    for size, parts in [(8, 1), (4, 2), (2, 4)]:
        config = small(
            sharing=sharing,
            optimization={"train_batch_size": size, "gradient_accumulation_steps": parts},
        )
        found.append(distil(perceptron(), plan, DataInputs(DATA), config))
    for student, records in found[1:]:
        for record, whole in zip(records, found[0][1], strict=True):
            assert float(record.loss) == pytest.approx(float(whole.loss), rel=1e-5)
        # Adam's first steps are lr · sign(g), so only a gradient at rounding level may differ.
        for state, whole in zip(states(student), states(found[0][0]), strict=True):
            for key, weight in state.items():
                torch.testing.assert_close(weight, whole[key], rtol=1e-4, atol=1e-5)


def test_a_run_is_a_function_of_its_seed() -> None:
    plan, found = build_strategy("progressive", 4), []
    for ours, theirs in [(0, 1), (0, 2), (1, 1)]:
        teacher = perceptron()
        torch.manual_seed(theirs)
        config = small(sharing="round", optimization={"seed": ours})
        found.append(distil(teacher, plan, DataInputs(DATA), config)[1])
    losses = [[float(record.loss) for record in records] for records in found]
    assert losses[0] == losses[1]
    assert all(one != other for one, other in zip(losses[0], losses[2], strict=True))


def test_records_count_iterations_and_teachers_stay_as_they_are() -> None:
    teacher = perceptron()
    before = {key: weight.clone() for key, weight in teacher.network.state_dict().items()}
    config = small((2, 3, 1))
    student, records = distil(teacher, build_strategy("boot", 4), DataInputs(DATA), config)
    assert [(r.stage, r.iteration, r.step) for r in records] == [
        (0, 1, 1),
        (0, 2, 2),
        (1, 1, 3),
        (1, 2, 4),
        (1, 3, 5),
        (2, 1, 6),
    ]
    for key, weight in teacher.network.state_dict().items():
        assert torch.equal(weight, before[key])
    (jump,) = student.jumps
    assert (jump.start, jump.stop, jump.readout) == (4, 0, 0)
    assert not any(p.requires_grad for p in jump.network.parameters())
    with pytest.raises(InputError, match="must be one number, or 3, one a stage, got 2 numbers"):
        distillation(teacher, build_strategy("boot", 4), DataInputs(DATA), small((2, 3)))
    with pytest.raises(InputError, match="`plan` must have 4 steps, as the teacher, got 5"):
        distillation(teacher, build_strategy("boot", 5), DataInputs(DATA), small())


def test_labels_reach_students_and_teacher() -> None:
    teacher = perceptron(num_classes=3)
    labels = torch.arange(16) % 3
    for inputs in (DataInputs(DATA, labels), NoiseInputs((4,), 3)):
        student, _ = distil(teacher, build_strategy("boot", 4), inputs, small())
        z = torch.ones(2, 4)
        one, other = student.sample(z, torch.tensor([0, 1]))
        assert not torch.equal(one, other)


@pytest.mark.usefixtures("fresh_accelerator")
def test_bfloat16_trains_float32_weights() -> None:
    plan, found = build_strategy("progressive", 4), []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = small(sharing="round", optimization={"mixed_precision": precision})
        found.append(distil(perceptron(), plan, DataInputs(DATA), config))
    full, mixed = ([float(record.loss) for record in records] for _, records in found)
    assert mixed != full
    # Losses are sums of squares of differences of values that are rounded to 8 bits: 2^-8 each.
    assert mixed[0] == pytest.approx(full[0], rel=4 * 2**-8)
    for state in states(found[1][0]):
        for weight in state.values():
            assert weight.dtype == torch.float32
            assert torch.isfinite(weight).all()


def scaling_accelerator() -> Any:
    """It scales losses as for fp16; accelerate itself keeps that to devices."""
    accelerator = make_accelerator(OptimizationConfig(), cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    return accelerator


def scaled_losses(accelerator: Any, size: float, **optimization: Any) -> list[float]:
    """Of one merge of a network whose output is multiplied by a size."""
    teacher = perceptron()
    teacher.network.proj_out.weight.mul_(size)  # type: ignore[operator, union-attr]
    config = small(12, linear_part="train", optimization={"max_grad_norm": 0.0, **optimization})
    plan = build_strategy("vanilla", 4)
    run = Distillation(teacher, plan, DataInputs(DATA), config, accelerator)
    return [float(record.loss) for record in run.run()]


@pytest.mark.usefixtures("fresh_accelerator")
def test_how_one_networks_loss_was_scaled_is_forgotten_with_it() -> None:
    """By 2^127 a loss above 2 overflows, and the first steps would be left out."""
    accelerator = scaling_accelerator()
    first = scaled_losses(accelerator, 1e3)
    assert first[0] > 2
    accelerator.scaler.update(2.0**127)
    assert scaled_losses(accelerator, 1e3) == first


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_steps_that_overflow_are_left_out_without_a_word(optimizer: str) -> None:
    """A loss of 1e36 times 2^16 exceeds float32 (3e38) until the factor is halved 8 times."""
    accelerator = scaling_accelerator()
    given: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 1e-40}
    losses = scaled_losses(accelerator, 1e18, **given)
    assert all(1e35 < loss < 1e37 for loss in losses)
    assert 1 <= accelerator.scaler.get_scale() <= 2.0**12


@pytest.mark.parametrize(
    ("schedule", "prediction_type"),
    [
        (linear_schedule(4), "epsilon"),
        (linear_schedule(4), "sample"),
        (cosine_schedule(4), "v_prediction"),
        (cosine_schedule(4), "sample"),
    ],
)
def test_loss_weights_are_squares_of_what_x0_errors_become(
    schedule: NoiseSchedule, prediction_type: Any
) -> None:
    ddim = DDIM.from_schedule(schedule, prediction_type)
    jumps = [
        Jump(ddim.denoiser(nn.Identity()), *steps) for steps in ((3, 1, 2), (2, 0, 0), (1, 0, 0))
    ]
    found = {
        name: loss_weights(ddim, jumps, name).double().numpy()
        for name in ("uniform", "x-space", "epsilon-space", "snr-truncated", "jump-space")
    }
    for row, jump in enumerate(jumps):
        alpha, sigma = schedule.alphas[jump.start], schedule.sigmas[jump.start]
        out_alpha, out_sigma = schedule.alphas[jump.readout], schedule.sigmas[jump.readout]
        snr = (alpha / sigma) ** 2
        # v = alpha ε - sigma x_0 with ε = (z - alpha x_0) / sigma: dv/dx_0 = -alpha²/sigma - sigma.
        uniform = {"epsilon": snr, "sample": 1.0, "v_prediction": (alpha**2 / sigma + sigma) ** 2}
        expected = {
            "uniform": uniform[prediction_type],
            "x-space": 1.0,
            "epsilon-space": snr,
            "snr-truncated": max(snr, 1.0),
            "jump-space": (out_alpha - alpha * out_sigma / sigma) ** 2,
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("weighting", ["uniform", "snr-truncated", "jump-space"])
def test_the_loss_carries_its_weight(weighting: Any) -> None:
    """The first loss of two weightings differs by the weight, as the batches are the same."""
    losses = {}
    for name in ("x-space", weighting):
        config = small(1, loss_weighting=name)
        _, records = distil(
            perceptron(), build_strategy("consistency", 4), DataInputs(DATA), config
        )
        losses[name] = float(records[0].loss)
    ddim = perceptron().ddim
    weight = loss_weights(ddim, [Jump(ddim.denoiser(nn.Identity()), 2, 0, 0)], weighting)
    assert losses[weighting] == pytest.approx(float(weight) * losses["x-space"], rel=1e-5)


def test_a_weight_of_zero_is_refused() -> None:
    message = r"must not be epsilon-space where .* \(alpha = 0 at step 4\).*take snr-truncated$"
    with pytest.raises(InputError, match=message):
        distillation(
            perceptron(),
            build_strategy("boot", 4),
            DataInputs(DATA),
            small(loss_weighting="epsilon-space"),
        )


def test_samples_of_merges_that_train_together_are_each_at_their_own_step() -> None:
    """With samples of 1e6 k and label k, z / 1e6 tells step and sample, up to noise of 1e-5."""
    ddim = perceptron().ddim
    inputs = DataInputs(1e6 * torch.arange(1.0, 4.0).reshape(3, 1).expand(3, 4), torch.arange(3))
    starts, size = [3, 2, 1], 900

    def draw(rows: slice) -> Batch:
        return inputs.draw(ddim, starts, Draws(torch.Generator().manual_seed(0), size, rows))

    whole = draw(slice(0, size))
    assert whole.choice is not None
    assert whole.condition is not None
    labels = whole.condition.rows["class_labels"]
    expected = ddim.alphas[torch.tensor(starts)[whole.choice]] * (labels + 1)
    torch.testing.assert_close(whole.z / 1e6, expected[:, None].expand(-1, 4), rtol=0, atol=1e-5)
    for drawn in (whole.choice, labels):  # evenly, within 4 standard deviations
        counts = torch.bincount(drawn, minlength=3)
        assert (counts - 300).abs().max() < 4 * math.sqrt(900 * (1 / 3) * (2 / 3))
    parts = [draw(slice(0, 450)), draw(slice(450, size))]
    for name in ("z", "choice"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name))
    assert torch.equal(torch.cat([part.condition.rows["class_labels"] for part in parts]), labels)


@pytest.mark.parametrize("name", ["vanilla", "boot", "hybrid:2"])
def test_noise_alone_trains_plans_at_the_last_step(name: str) -> None:
    """With alpha_T = 0 data are nothing but a seed's worth of noise."""
    student, records = distil(
        perceptron(), build_strategy(name, 4), NoiseInputs((4,)), small(optimization={"seed": 3})
    )
    assert len(student.jumps) == 1
    assert all(math.isfinite(float(record.loss)) for record in records)


@pytest.mark.parametrize("name", ["consistency", "progressive"])
def test_noise_alone_is_refused_below_the_last_step(name: str) -> None:
    with pytest.raises(InputError, match=r"`data_free` must come with .* step T = 4 only, got"):
        distillation(perceptron(), build_strategy(name, 4), NoiseInputs((4,)), small())


def live_networks() -> int:
    gc.collect()
    return sum(type(found) is MLPDenoiser for found in gc.get_objects())


@pytest.mark.parametrize("name", ["boot", "consistency", "progressive"])
@pytest.mark.parametrize("sharing", ["merge", "round"])
def test_networks_that_are_no_longer_read_are_freed(name: str, sharing: Any) -> None:
    before = live_networks()
    teacher = perceptron(8)
    config = small(2, sharing=sharing, merge_seconds=1e-3)
    run = distillation(teacher, build_strategy(name, 8), DataInputs(DATA), config)
    in_place = [0, *(stage.networks_after for stage in run.stages)]
    for record in run.run():
        # The teacher's, those in place when the stage began, and the one in training.
        assert live_networks() - before <= 1 + in_place[record.stage] + 1
    del record
    assert live_networks() - before == 1 + in_place[-1]


def test_memory_of_optimizers_is_freed_with_their_networks() -> None:
    """Live weights and moments: 3 copies for the network in training, 1 for all others."""
    teacher = perceptron(8, size=64)
    size = sum(p.numel() for p in teacher.network.parameters())
    run = distillation(teacher, build_strategy("boot", 8), DataInputs(DATA), small(2))
    gc.disable()  # what hangs in a cycle has to be let go of, not found by chance
    try:
        for record in run.run():
            if record.iteration == 2:
                tensors = {
                    t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 4
                    for t in gc.get_objects()
                    if issubclass(type(t), Tensor) and t.ndim and t.dtype == torch.float32
                }
                # teacher, child, student with two moments: 5; and batches.
                assert sum(tensors.values()) / size < 5.5, record.stage
    finally:
        gc.enable()
