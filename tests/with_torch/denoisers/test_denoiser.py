"""The algebra of jumps: estimates, where they land, what should have landed there, and chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules
from torch import Tensor, nn

from opmerge import cosine_schedule
from opmerge.denoisers.denoiser import PREDICTIONS, Estimate, as_condition
from opmerge.denoisers.models import Jump, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule, linear_schedule

T = 5


def exact(schedule: NoiseSchedule, prediction_type: Any = "sample") -> DDIM:
    """In float64, so that what is compared is the formula and not its rounding."""
    alphas, sigmas = (torch.from_numpy(c.copy()) for c in (schedule.alphas, schedule.sigmas))
    return DDIM(alphas, sigmas, torch.arange(len(alphas)), prediction_type)


class Says(nn.Module):
    """Says what it is told to, whatever it reads."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor, timesteps: Tensor) -> Any:
        return self.output


class Affine(nn.Module):
    """``weight z + t/10``, with the class added where there is one; counts the rows it is asked."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.asked: list[int] = []

    def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.asked.append(len(z))
        shift = timesteps / 10 if class_labels is None else timesteps / 10 + class_labels
        return self.weight * z + shift[:, None]


@given(st.data())
def test_the_target_is_the_estimate_that_lands_there(data: st.DataObject) -> None:
    ddim = exact(data.draw(schedules(6)))
    step = data.draw(st.integers(1, 6))
    readout = data.draw(st.integers(0, step - 1))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    x0, z = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    alpha, sigma = ddim.alphas[step], ddim.sigmas[step]
    landing = ddim.land(Estimate(x0, (z - alpha * x0) / sigma), readout)
    weight = ddim.jump_weight(step, readout)
    assert weight > 0
    # Rounding of the landing, of the size of z / sigma at most, comes back divided by the weight.
    bound = 100 * 2.0**-52 * float((1 + 1 / sigma) / weight)
    steps = torch.full((3,), step), torch.full((3,), readout)
    for each in ((step, readout), steps):
        error = (ddim.x0_target(z, *each, landing) - x0).abs().max()
        assert error <= bound * float(z.abs().max() + x0.abs().max())


@pytest.mark.parametrize("schedule", [cosine_schedule(T), linear_schedule(T)])
@pytest.mark.parametrize("step", [1, 3, T])
def test_all_predictions_say_the_same(schedule: NoiseSchedule, step: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    alpha, sigma = float(schedule.alphas[step]), float(schedule.sigmas[step])
    z = alpha * x0 + sigma * noise
    outputs = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": alpha * noise - sigma * x0,
        "flow_prediction": noise - x0,
    }
    assert outputs.keys() == PREDICTIONS.keys()
    if schedule.alphas[-1] == 0:
        del outputs["epsilon"]
    for name, output in outputs.items():
        ddim = exact(schedule, name)
        torch.testing.assert_close(ddim.add_noise(x0, noise, step), z)
        target = PREDICTIONS[name].target(x0, noise, *ddim.at(step, z.ndim))
        torch.testing.assert_close(target, output)
        estimate = ddim.denoiser(Says(output))(z, step)
        # v and its like divide by alpha, 0.006 at the end of the linear schedule of 5 steps.
        torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-12)
        torch.testing.assert_close(estimate.noise, noise, rtol=0, atol=1e-12)
        landed = ddim.land(estimate, step - 1)
        torch.testing.assert_close(landed, ddim.add_noise(x0, noise, step - 1), rtol=0, atol=1e-12)


def test_epsilon_is_refused_where_the_noise_is_pure() -> None:
    with pytest.raises(InputError, match="must not be epsilon where alpha_T = 0"):
        exact(cosine_schedule(T), "epsilon")
    with pytest.raises(
        InputError, match="must be one of epsilon, sample, v_prediction, flow_prediction, got 'x0'"
    ):
        exact(cosine_schedule(T), "x0")


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_pure_noise_is_read_and_left(prediction_type: Any) -> None:
    """At alpha_T = 0 the input is all noise, so ε̂ = z, and v says -x̂."""
    ddim = exact(cosine_schedule(T), prediction_type)
    z = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    output = torch.full_like(z, 0.5)
    estimate = ddim.denoiser(Says(output))(z, T)
    torch.testing.assert_close(estimate.noise, z)
    torch.testing.assert_close(estimate.x0, output if prediction_type == "sample" else -output)
    assert torch.equal(ddim.land(estimate, 0), estimate.x0)  # sigma_0 = 0


def test_a_learned_variance_and_other_wrappings_are_read() -> None:
    ddim = exact(cosine_schedule(T))
    z = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    mean, variance = torch.full_like(z, 2.0), torch.full_like(z, 9.0)
    for output in (mean, (mean,), torch.cat([mean, variance], 1), mean.half()):
        assert torch.equal(ddim.denoiser(Says(output))(z, 2).x0, mean)


def chains_of(ddim: DDIM, networks: list[Affine]) -> list[list[Jump]]:
    """Of 1, 2, 3 and 2 hops; at the first hop three networks, at the second two."""
    a, b, c = map(ddim.denoiser, networks)
    return [
        [Jump(a, 5, 0, 0)],
        [Jump(b, 4, 2, 3), Jump(a, 2, 0, 1)],
        [Jump(a, 3, 2, 2), Jump(a, 2, 1, 1), Jump(b, 1, 0, 0)],
        [Jump(c, 2, 1, 1), Jump(b, 1, 0, 0)],
    ]


def states(count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("labelled", [False, True])
def test_mixed_chains_are_the_chains_one_by_one(labelled: bool) -> None:
    ddim = exact(cosine_schedule(T), "v_prediction")
    networks = [Affine(weight) for weight in (0.5, -0.3, 0.8)]
    chains = chains_of(ddim, networks)
    choice = torch.tensor([3, 0, 2, 1, 1, 2, 0, 3, 2])
    labels = torch.arange(len(choice)) if labelled else None
    z = states(len(choice))
    found = compose(ddim, chains, z, choice, as_condition(labels))
    # Hop 1: chains 0 and 2 meet a (5 rows), 1 meets b (2), 3 meets c (2); hop 2: 1 and 2 meet
    # a (5), 3 meets b (2); hop 3: 2 meets b (3).
    assert [network.asked for network in networks] == [[5, 5], [2, 2, 3], [2]]
    for row, chain in enumerate(choice.tolist()):
        own = None if labels is None else as_condition(labels[row : row + 1])
        alone = z[row : row + 1]
        for jump in chains[chain]:
            estimate = jump.denoiser(alone, jump.start, own)
            alone = ddim.land(estimate, jump.readout)
        torch.testing.assert_close(found[row : row + 1], alone)


def test_what_nobody_chose_is_not_evaluated() -> None:
    ddim = exact(cosine_schedule(T), "v_prediction")
    networks = [Affine(0.5), Affine(0.5), Affine(0.5)]
    compose(ddim, chains_of(ddim, networks), states(3), torch.tensor([3, 3, 3]))
    assert [network.asked for network in networks] == [[], [3], [3]]


def test_a_chain_of_teacher_steps_calls_once_a_step_and_leaves_no_graph() -> None:
    ddim = exact(cosine_schedule(T), "v_prediction")
    network = Affine(0.5)
    steps = [Jump(ddim.denoiser(network), t, t - 1, t - 1) for t in range(T, 0, -1)]
    z = states(7)
    before = z.clone()
    whole = compose(ddim, [steps], z)
    assert network.asked == [7] * T
    assert not whole.requires_grad
    assert torch.equal(z, before)
    mixed = compose(ddim, [steps, steps], z, torch.tensor([0, 1, 0, 1, 1, 0, 0]))
    assert not mixed.requires_grad
    torch.testing.assert_close(mixed, whole)


@given(st.data())
def test_a_composition_is_associative(data: st.DataObject) -> None:
    """[T → 0] = [k → 0] after [T → k]."""
    ddim = exact(cosine_schedule(T), "v_prediction")
    split = data.draw(st.integers(1, T - 1))
    network = Affine(data.draw(st.floats(-1, 1)))
    steps = [Jump(ddim.denoiser(network), t, t - 1, t - 1) for t in range(T, 0, -1)]
    z = states(3)
    parts = compose(ddim, [steps[T - split :]], compose(ddim, [steps[: T - split]], z))
    assert torch.equal(compose(ddim, [steps], z), parts)


def test_the_tables_are_those_of_the_schedule() -> None:
    schedule = linear_schedule(T)
    ddim = DDIM.from_schedule(schedule, "sample")
    assert ddim.num_steps == T
    np.testing.assert_array_equal(ddim.alphas.numpy(), schedule.alphas.astype(np.float32))
    np.testing.assert_array_equal(ddim.sigmas.numpy(), schedule.sigmas.astype(np.float32))
    assert ddim.timesteps.tolist() == [0, *(schedule.timesteps or range(1, T + 1))]
