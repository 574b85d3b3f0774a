"""Schedules from diffusers configs against DDIMScheduler's own code in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opmerge.schedules import (
    NoiseSchedule,
    diffusers_schedule,
    linear_schedule,
    scaled_linear_schedule,
)

LINEAR = {"clip_sample": False}
# The betas are those of the scheduler in float32: 1 - 0.999, the last factor of a cosine, is off by
# 1e-5 of itself, and everything else by less than 1e-6.
DOUBLE = 3e-5
DIVISORS = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000]
BETAS: list[dict[str, Any]] = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": list(0.001 + 0.01 * np.sin(np.arange(1000)) ** 2)},
]
BETA_IDS = ["linear", "scaled_linear", "squaredcos_cap_v2", "trained_betas"]


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """DDIMScheduler whose own code runs in float64."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")

    def build(**config: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)
            scheduler = diffusers.DDIMScheduler(**config)
        assert scheduler.alphas_cumprod.dtype == torch.float64
        return scheduler

    return build


def steps_like_diffusers(scheduler: Any, schedule: NoiseSchedule, steps: Any) -> None:
    """DDIM's step with a linear denoiser x0 = gain z, against ours, for the steps given."""
    torch = pytest.importorskip("torch")
    gain, state = 0.3, torch.tensor([[[[1.0, -2.5]]]], dtype=torch.float64)
    for t in steps:
        timestep = schedule.timesteps[t - 1]  # type: ignore[index]
        before = schedule.alphas[t], schedule.sigmas[t]
        after = schedule.alphas[t - 1], schedule.sigmas[t - 1]
        gain_noise = (1 - before[0] * gain) / before[1]
        output = {"sample": gain, "epsilon": gain_noise}[scheduler.config.prediction_type]
        theirs = scheduler.step(output * state, timestep, state).prev_sample
        ours = (after[0] * gain + after[1] * gain_noise) * state
        # From epsilon, x_0 is a difference of terms 1 / gain times as large, divided by alpha.
        rtol = DOUBLE if output == gain else DOUBLE / gain + 1e-15 / before[0]
        np.testing.assert_allclose(theirs.numpy(), ours.numpy(), rtol=rtol)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", BETAS, ids=BETA_IDS)
@pytest.mark.parametrize(
    ("spacing", "offset", "to_one"),
    [
        ("leading", 0, True),
        ("leading", 1, True),
        ("leading", 1, False),
        ("trailing", 0, True),
        ("trailing", 0, False),
    ],
)
def test_states_and_steps_are_those_of_diffusers(
    in_double: Any,
    betas: dict[str, Any],
    spacing: str,
    offset: int,
    to_one: bool,
    zero_snr: bool,
    prediction_type: str,
) -> None:
    config = {
        **betas,
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "set_alpha_to_one": to_one,
        "rescale_betas_zero_snr": zero_snr,
        "prediction_type": prediction_type,
        **LINEAR,
    }
    scheduler = in_double(**config)
    sizes = [1, 3, 7, 64, 333, 999] if spacing == "leading" else DIVISORS[:-1]
    for num_steps in sizes:
        schedule = diffusers_schedule(config, num_steps)
        scheduler.set_timesteps(num_steps)
        assert schedule.timesteps == tuple(scheduler.timesteps.tolist()[::-1])
        cumulative = scheduler.alphas_cumprod.numpy()[list(schedule.timesteps)]
        np.testing.assert_allclose(schedule.alphas[1:], cumulative**0.5, rtol=DOUBLE)
        np.testing.assert_allclose(schedule.sigmas[1:], (1 - cumulative) ** 0.5, rtol=DOUBLE)
        if num_steps != 999:  # leading, one timestep a step, offset 1: ends on timestep 0
            final = float(scheduler.final_alpha_cumprod)
            assert schedule.alphas[0] == pytest.approx(final**0.5, rel=DOUBLE)
            assert schedule.sigmas[0] == pytest.approx((1 - final) ** 0.5, rel=DOUBLE)
        first_divides_by_zero = schedule.alphas[-1] == 0 and prediction_type == "epsilon"
        steps = range(num_steps - first_divides_by_zero, 0, -max(1, num_steps // 8))
        steps_like_diffusers(scheduler, schedule, {*steps, 1} if num_steps > 1 else steps)
        assert not any("DDIMScheduler.step lands" in note for note in schedule.notes)
    assert schedule.alphas[-1] == 0 or not zero_snr or spacing == "leading"


def test_last_step_lands_where_diffusers_lands(in_double: Any) -> None:
    # Leading with offset 1 and 600 steps: 1 - 1000 // 600 = 0, so not on the final alpha.
    config = {"steps_offset": 1, "prediction_type": "sample", **LINEAR}
    schedule = diffusers_schedule(config, 600)
    scheduler = in_double(**config)
    scheduler.set_timesteps(600)
    steps_like_diffusers(scheduler, schedule, range(1, 601, 7))
    assert schedule.sigmas[0] == pytest.approx(1e-2, rel=1e-6)  # sqrt(beta_start)
    assert (
        "the last step lands on training timestep 0, as in DDIMScheduler.step, and not on clean "
        "data: sigma_0 = 0.01"
    ) in schedule.notes


@pytest.mark.parametrize("betas", BETAS, ids=BETA_IDS)
@pytest.mark.parametrize(
    ("spacing", "num_steps"),
    [("linspace", 2), ("linspace", 50), ("linspace", 999), ("trailing", 7), ("trailing", 64)],
)
def test_unequal_spacing_takes_the_timesteps_own_states_and_says_so(
    in_double: Any, betas: dict[str, Any], spacing: str, num_steps: int
) -> None:
    config = {**betas, "timestep_spacing": spacing, "prediction_type": "sample", **LINEAR}
    scheduler = in_double(**config)
    scheduler.set_timesteps(num_steps)
    schedule = diffusers_schedule(config, num_steps)
    theirs = scheduler.timesteps.numpy()
    assert schedule.timesteps == tuple(theirs[::-1].tolist())
    cumulative = scheduler.alphas_cumprod.numpy()[theirs[::-1]]
    np.testing.assert_allclose(schedule.alphas[1:] ** 2, cumulative, rtol=DOUBLE)
    mismatch = np.abs(theirs[:-1] - 1000 // num_steps - theirs[1:])
    assert mismatch.max() > 0
    assert schedule.notes[0] == (
        f"DDIMScheduler.step lands up to {mismatch.max()} training timesteps from the timestep "
        "that follows (it goes back num_train_timesteps // num_steps); the states here are the "
        "timesteps' own"
    )
    agreeing = [num_steps - int(k) for k in np.flatnonzero(mismatch == 0)]
    steps_like_diffusers(scheduler, schedule, [*agreeing[:: max(1, len(agreeing) // 9)], 1])


def test_a_surplus_trailing_timestep_is_left_out(in_double: Any) -> None:
    scheduler = in_double(timestep_spacing="trailing", **LINEAR)
    scheduler.set_timesteps(61)
    theirs = scheduler.timesteps.tolist()
    assert (len(theirs), theirs[-1]) == (62, -1)  # the fault in diffusers that this is about
    schedule = diffusers_schedule({"timestep_spacing": "trailing"}, 61)
    assert schedule.timesteps == tuple(theirs[-2::-1])


def test_every_number_of_steps_gives_the_timesteps_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    for spacing in ("leading", "trailing", "linspace"):
        config = {"timestep_spacing": spacing, "num_train_timesteps": 120}
        scheduler = diffusers.DDIMScheduler(**config)
        for num_steps in range(1, 121):
            scheduler.set_timesteps(num_steps)
            theirs = [step for step in scheduler.timesteps.tolist() if step >= 0]
            assert diffusers_schedule(config, num_steps).timesteps == tuple(theirs[::-1])


@pytest.mark.parametrize("betas", BETAS, ids=BETA_IDS)
def test_states_are_those_of_single_precision_diffusers_up_to_its_rounding(
    betas: dict[str, Any],
) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(**betas).alphas_cumprod.numpy().astype(np.float64)
    ours = diffusers_schedule({**betas, "timestep_spacing": "trailing"}, 1000).alphas[1:] ** 2
    kept = ours / np.concatenate([[1], ours[:-1]])
    # Each factor 1 - beta is off by at most 3 half-ulps of 1, each product by one of its own.
    bound = np.cumsum(2.0**-24 * (3 / kept + 1))
    assert np.all(np.abs(theirs - ours) <= bound * ours)


def test_zero_terminal_snr_ends_in_pure_noise_and_notes_the_epsilon_prediction() -> None:
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **LINEAR}
    schedule = diffusers_schedule(config, 50)
    assert (schedule.alphas[-1], schedule.sigmas[-1]) == (0, 1)
    assert schedule.notes == (
        "alpha_T = 0: step T cannot compute x_0 from a prediction of epsilon",
    )
    assert diffusers_schedule({**config, "prediction_type": "v_prediction"}, 50).notes == ()


@pytest.mark.parametrize(
    ("name", "make"), [("linear", linear_schedule), ("scaled_linear", scaled_linear_schedule)]
)
def test_beta_schedules_are_trailing_ddim_from_clean_data(
    in_double: Any, name: str, make: Any
) -> None:
    betas = {"beta_start": 0.0005, "beta_end": 0.015, "num_train_timesteps": 600}
    scheduler = in_double(beta_schedule=name, timestep_spacing="trailing", **betas)
    for num_steps in (1, 7, 64, 100, 600):
        scheduler.set_timesteps(num_steps)
        schedule = make(num_steps, **betas)
        timesteps = scheduler.timesteps.numpy()[:num_steps]  # 7 steps list a surplus -1
        cumulative = scheduler.alphas_cumprod.numpy()[timesteps[::-1]]
        np.testing.assert_allclose(schedule.alphas[1:], cumulative**0.5, rtol=DOUBLE)
        np.testing.assert_allclose(schedule.sigmas[1:], (1 - cumulative) ** 0.5, rtol=DOUBLE)
        assert (schedule.alphas[0], schedule.sigmas[0]) == (1, 0)
        assert schedule.timesteps is None
        assert schedule.notes == ()
