"""Schedules of diffusers schedulers: their levels, their notes, and what is refused."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from scheduler_configs import EDM, FLOW, FLOWS, FLUX, LATENT, MODELS, NO_CLIP, SIGMAS, SIGNALS, SVD

from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule, diffusers_schedule, resolve_schedule


def raises(message: str) -> Any:
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def assert_same(one: NoiseSchedule, other: NoiseSchedule) -> None:
    assert one.to_dict() == other.to_dict()


def visited(config: dict[str, Any], num_steps: int, mu: float | None = None) -> Any:
    """The scheduler of diffusers, once its steps are set."""
    scheduler = getattr(diffusers, config.get("_class_name", "DDIMScheduler")).from_config(config)
    scheduler.set_timesteps(num_steps, **({} if mu is None else {"mu": mu}))
    return scheduler


def log_snr(alphas: Any, sigmas: Any) -> Any:
    with np.errstate(divide="ignore"):
        return 2 * np.log(np.float64(alphas)) - 2 * np.log(np.float64(sigmas))


@pytest.mark.parametrize("num_steps", [2, 7, 20, 50])
@pytest.mark.parametrize("model", SIGMAS | FLOWS)
def test_levels_are_the_sigmas_of_the_scheduler(model: str, num_steps: int) -> None:
    config = MODELS[model]
    scheduler = visited(config, num_steps, config.get("base_shift"))
    sigmas = scheduler.sigmas.double().numpy()[::-1]
    times = scheduler.timesteps.double().numpy()[::-1]
    keep = np.r_[True, times != -1]  # a surplus step of trailing spacing
    expected = log_snr(1 - sigmas if model in FLOWS else 1, sigmas)[keep]
    if len(expected) <= num_steps or expected[0] == expected[1]:
        pytest.skip("a step of length zero, which the schedule does not have")
    schedule = diffusers_schedule(config, num_steps)
    np.testing.assert_allclose(log_snr(schedule.alphas, schedule.sigmas), expected, atol=1e-5)
    assert schedule.timesteps == tuple(times[times != -1])
    if model in SIGMAS:
        np.testing.assert_allclose(schedule.alphas**2 + schedule.sigmas**2, 1, rtol=1e-12)


@pytest.mark.parametrize("num_steps", [2, 7, 20, 50])
@pytest.mark.parametrize("model", SIGNALS)
def test_levels_are_the_signal_of_the_timesteps(model: str, num_steps: int) -> None:
    scheduler = visited(SIGNALS[model], num_steps)
    schedule = diffusers_schedule(SIGNALS[model], num_steps)
    times = np.unique(scheduler.timesteps[scheduler.timesteps >= 0].numpy())
    assert schedule.timesteps == tuple(times)
    signal = scheduler.alphas_cumprod[times].double().numpy()
    # In float32 the product of n factors is off by n roundings, and 1 - c by as much of 1.
    error = 2.0**-23 * (times + 2) / (1 - signal)
    expected = log_snr(signal**0.5, (1 - signal) ** 0.5)
    found = log_snr(schedule.alphas, schedule.sigmas)[1:]
    assert np.array_equal(np.isinf(found), np.isinf(expected))  # pure noise, at zero terminal SNR
    is_finite = np.isfinite(found)
    assert np.all(np.abs(found[is_finite] - expected[is_finite]) <= (1e-5 + error)[is_finite])


@pytest.mark.parametrize(
    ("model", "signal"),
    [("DDPM", 1), ("SD 1.5", 1 - 0.00085), ("LCM-SDXL", 1), ("TCD", 1 - 0.00085), ("UnCLIP", 1)],
)
def test_the_last_step_lands_where_the_class_lands(model: str, signal: float) -> None:
    """A dead key set_alpha_to_one (DDPM) has no effect; nor has LCM's own, as it ends on x_0."""
    assert diffusers_schedule(SIGNALS[model], 20).alphas[0] ** 2 == pytest.approx(signal, rel=1e-6)


def sigma(schedule: NoiseSchedule, step: int) -> float:
    return float(schedule.sigmas[step] / schedule.alphas[step])


def test_numbers_of_popular_models() -> None:
    """From the formulas that the papers and the model cards give."""
    svd = diffusers_schedule(SVD, 25)
    ramp = np.linspace(0.002 ** (1 / 7), 700 ** (1 / 7), 25) ** 7
    np.testing.assert_allclose(svd.sigmas[1:] / svd.alphas[1:], ramp, rtol=1e-5)
    np.testing.assert_allclose(svd.timesteps, np.log(ramp) / 4, rtol=1e-5)  # type: ignore[arg-type]
    pixart = diffusers_schedule(MODELS["PixArt"], 20)
    assert (pixart.sigmas[0], pixart.timesteps[0]) == (0, 50)  # type: ignore[index]
    assert pixart.sigmas[1] == pytest.approx(0.173, abs=1e-3)
    assert diffusers_schedule(MODELS["SDXL"], 30).sigmas[0] == 0
    assert diffusers_schedule(MODELS["LCM-SDXL"], 4).timesteps == (259, 499, 759, 999)
    for model in ("EDM2", "Playground"):
        edm = diffusers_schedule(MODELS[model], 18)
        assert (sigma(edm, 0), sigma(edm, 1)) == (0, pytest.approx(0.002))
        assert sigma(edm, 18) == pytest.approx(80)
    cog = diffusers_schedule({**MODELS["CogVideoX-2B"], "rescale_betas_zero_snr": False}, 10)
    plain = diffusers_schedule(SIGNALS["DDIM"], 10).alphas ** 2
    np.testing.assert_allclose(cog.alphas**2, plain / (3 - 2 * plain), rtol=1e-6)


def test_shifts_of_flow_matching() -> None:
    plain = diffusers_schedule({**FLOW, "shift": 1.0}, 20).sigmas
    sd3 = diffusers_schedule(FLOWS["SD3"], 20).sigmas
    # diffusers shifts the smallest sigma when it is built, and again in its steps.
    start = 3 * 0.001 / (1 + 2 * 0.001)
    grid = np.linspace(start, 1, 20)
    np.testing.assert_allclose(sd3[1:], 3 * grid / (1 + 2 * grid), rtol=1e-5)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (1024, 0.63)):
        shifted = np.exp(mu) / (np.exp(mu) + 1 / plain[1:] - 1)
        flux = diffusers_schedule(FLUX, 20, image_seq_len=tokens)
        np.testing.assert_allclose(flux.sigmas[1:], shifted, rtol=1e-5)
        assert f"image_seq_len = {tokens}, mu = {mu:g}" in flux.notes[0]
        assert_same(diffusers_schedule(flux.parameters, 20), flux)
    for model, terminal in (("LTX", 0.1), ("Qwen", 0.02)):
        schedule = diffusers_schedule(FLOWS[model], 20)
        assert schedule.sigmas[[0, 1, -1]] == pytest.approx([0, terminal, 1], rel=1e-5)


def test_schedulers_that_are_none_of_these() -> None:
    scm = diffusers_schedule({"_class_name": "SCMScheduler"}, 4)
    angles = np.linspace(0, 1.5708, 5)
    np.testing.assert_allclose(np.arctan2(scm.sigmas, scm.alphas), angles, atol=1e-5)
    assert diffusers_schedule({"_class_name": "SCMScheduler"}, 2).timesteps == pytest.approx(
        (1.3, 1.5708)
    )
    cascade = diffusers_schedule({"_class_name": "DDPMWuerstchenScheduler"}, 10)
    time = np.arange(1, 10) / 10
    expected = np.cos((time + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)
    np.testing.assert_allclose(cascade.alphas[1:-1], expected, rtol=1e-5)
    assert cascade.alphas[[0, -1]] ** 2 == pytest.approx([0.9999, 0.0001], rel=1e-5)
    ve = diffusers_schedule({"_class_name": "ScoreSdeVeScheduler"}, 10)
    assert (sigma(ve, 0), sigma(ve, 10)) == (0, pytest.approx(1348))
    heun = diffusers_schedule({"_class_name": "HeunDiscreteScheduler", **LATENT}, 10)
    euler = diffusers_schedule({"_class_name": "EulerDiscreteScheduler", **LATENT}, 10)
    for name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        heun = diffusers_schedule({"_class_name": name, **LATENT}, 10)
        assert heun.timesteps == euler.timesteps
        # Heun's classes interpolate sigma in float32 and Euler in float64.
        np.testing.assert_allclose(heun.sigmas, euler.sigmas, rtol=1e-4)
    cosmos = {"_class_name": "EDMEulerScheduler", "final_sigmas_type": "sigma_min", **EDM}
    schedule = diffusers_schedule(cosmos, 10)
    assert (schedule.num_steps, sigma(schedule, 0)) == (10, pytest.approx(0.002))
    assert schedule.notes[0] == (
        "set_timesteps(11) gives these: EDMEulerScheduler counts one that moves nothing"
    )
    if hasattr(diffusers, "MiniMaxH3Scheduler"):  # its times fall while noise rises
        times = diffusers_schedule({"_class_name": "MiniMaxH3Scheduler"}, 10).timesteps
        assert times is not None
        assert all(sooner > later for sooner, later in pairwise(times))


FIRST_ORDER = ("SDXL", "SVD", "Euler, trailing, zero SNR", "EDM2", "SD3", "FLUX", "LTX", "DDIM")


@pytest.mark.parametrize("eigenvalue", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("model", FIRST_ORDER)
def test_steps_of_a_linear_denoiser_are_those_of_the_scheduler(
    model: str, eigenvalue: float
) -> None:
    """The scheduler's own steps, each against ``A_t = (a' a l + s' s) / (a² l + s²)``."""
    config = {**MODELS[model], "prediction_type": "sample"} if model == "DDIM" else MODELS[model]
    schedule = diffusers_schedule(config, 20)
    scheduler = visited(config, 20, config.get("base_shift"))
    is_scaled = model in SIGMAS  # its states are z / alpha
    for index, timestep in enumerate(scheduler.timesteps):
        t = 20 - index
        a, s = schedule.alphas[t], schedule.sigmas[t]
        landing_a, landing_s = schedule.alphas[t - 1], schedule.sigmas[t - 1]
        size = a**2 * eigenvalue + s**2
        x0, noise = a * eigenvalue / size, s / size
        operator = landing_a * x0 + landing_s * noise
        state = torch.tensor([[1.0]], dtype=torch.float64)
        level = s / a if is_scaled else s
        kind = scheduler.config.get("prediction_type", "flow")
        if kind == "sample":
            output = x0
        elif model == "EDM2":  # preconditioned: D = c_skip x + c_out F
            skip = 0.25 / (level**2 + 0.25)
            output = (x0 / 1 * a - skip) / (level * 0.5 / (level**2 + 0.25) ** 0.5)
        elif model == "SVD":  # D = v (-sigma / sqrt(sigma² + 1)) + x / (sigma² + 1)
            output = (x0 * a - 1 / (level**2 + 1)) / (-level / (level**2 + 1) ** 0.5)
        elif is_scaled:
            output = (1 - x0 * a) / level
        else:
            output = noise - x0
        scheduler.scale_model_input(state, timestep) if is_scaled else None
        found = scheduler.step(output * state, timestep, state).prev_sample.item()
        expected = operator * a / landing_a if is_scaled else operator
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7), t


def test_schedules_are_stored_with_arrays_and_rebuilt_by_their_parameters() -> None:
    betas = {"trained_betas": np.linspace(0.01, 0.5, 40), "num_train_timesteps": 40}
    for config in ({**betas, "thresholding": True}, *MODELS.values()):
        schedule = diffusers_schedule(config, 8)
        stored = json.loads(json.dumps(schedule.to_dict(), allow_nan=False))
        assert stored["name"] == "diffusers"
        assert_same(NoiseSchedule.from_dict(stored, 8), schedule)
        assert_same(diffusers_schedule(stored["parameters"], 8), schedule)


def test_a_saved_scheduler_is_found_as_file_folder_and_model_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "scheduler"
    for config in MODELS.values():
        scheduler = visited(config, 2, config.get("base_shift"))
        scheduler.save_pretrained(folder)
        expected = diffusers_schedule(config, 10)
        for place in (tmp_path / "model", folder, folder / "scheduler_config.json"):
            assert_same(diffusers_schedule(place, 10), expected)
            assert_same(resolve_schedule(str(place), 10), expected)


def test_a_pipelines_folder_has_the_sigmas_that_its_call_names(tmp_path: Path) -> None:
    """Of diffusers' main pipelines those whose source says so, and no other."""
    ends = r"1(\.0)? / num_inference_steps, |0(\.0)?, num_inference_steps \+ 1\)\["
    even = re.compile(rf"^ *sigmas = (None if .*)?np\.linspace\(1(\.0)?, ({ends})", re.MULTILINE)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(FLOWS["SD3"]))
    found = {}
    for path in (Path(diffusers.__file__).parent / "pipelines").rglob("pipeline_*.py"):
        source = path.read_text(encoding="utf-8")
        for name in re.findall(r"^class (\w+Pipeline)\(", source, re.MULTILINE):
            if path.stem == f"pipeline_{path.parent.name}" and "sigmas" in source:
                (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
                levels = diffusers_schedule(tmp_path, 8).sigmas[1]
                found[name] = (
                    levels == pytest.approx(3 / 8 / (1 + 2 / 8)),
                    bool(even.search(source)),
                )
    assert {"FluxPipeline", "QwenImagePipeline", "WanPipeline", "LTXPipeline"} < found.keys()
    assert {name: ours for name, (ours, _) in found.items()} == {
        name: theirs for name, (_, theirs) in found.items()
    }


def test_absent_keys_take_the_defaults_of_each_class() -> None:
    for name in {config["_class_name"] for config in MODELS.values() if "_class_name" in config}:
        signature = inspect.signature(getattr(diffusers, name).__init__).parameters
        parameters = diffusers_schedule({"_class_name": name, "steps_offset": 1}, 10).parameters
        for key in signature.keys() - {"self", "steps_offset", "lambda_min_clipped"}:
            assert parameters[key] == signature[key].default, (name, key)


def test_every_installed_class_is_read_or_refused() -> None:
    for name in (name for name in dir(diffusers) if name.endswith("Scheduler")):
        with contextlib.suppress(InputError):
            assert diffusers_schedule({"_class_name": name}, 20).num_steps == 20


READ = "is read as first order on its own noise levels;"


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        ({}, ()),
        ({"_class_name": "DDPMScheduler"}, (f"DDPMScheduler {READ} the noise that it draws in",)),
        ({"_class_name": "PNDMScheduler"}, (f"PNDMScheduler {READ} its steps of higher order",)),
        ({"_class_name": "EulerDiscreteScheduler"}, ()),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            (f"DPMSolverMultistepScheduler {READ} the noise that it draws",),
        ),
        ({"clip_sample": True}, ("clip_sample is on: each estimate of x_0 is clipped to [-1, 1]",)),
        (
            {"clip_sample": True, "clip_sample_range": 2.5},
            ("clip_sample is on: each estimate of x_0 is clipped to [-2.5, 2.5], which",),
        ),
        ({"_class_name": "EulerDiscreteScheduler", "clip_sample": True}, ()),
        (
            {"thresholding": True},
            ("thresholding is on: each estimate of x_0 is thresholded, which is not linear",),
        ),
        (
            {"_class_name": "MyScheduler", "beta_schedule": "linear"},
            ("MyScheduler is read as the DDIM teacher of the same betas and timestep spacing;",),
        ),
        (LATENT, ("alpha_T = 0.0683: samplers start from pure noise, the theory from a z_T",)),
    ],
)
def test_notes_name_what_is_left_out(config: dict[str, Any], notes: tuple[str, ...]) -> None:
    config = {"timestep_spacing": "trailing", "steps_offset": 1, **NO_CLIP, **config}
    found = diffusers_schedule(config, 50).notes
    said = [note for note in found if not note.startswith(("opmerge distill", "the last step"))]
    assert len(said) == len(notes)
    for note, start in zip(said, notes, strict=True):
        assert note.startswith(start)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MODELS["PixArt"], None),
        (MODELS["SD3"], None),
        (MODELS["CogVideoX-2B"], None),
        (
            {**MODELS["Wan"], "prediction_type": "v_prediction"},
            "`prediction_type` must be one of epsilon, sample, flow_prediction with these noise",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "`prediction_type` must be one of epsilon, sample, v_prediction with these noise",
        ),
        (
            {"_class_name": "FlowMapEulerDiscreteScheduler"},
            "`_class_name` must tell the network one time: a flow map reads two",
        ),
    ],
)
def test_a_plan_tells_why_distill_refuses_a_scheduler(
    config: dict[str, Any], reason: str | None
) -> None:
    notes = [note for note in diffusers_schedule(config, 20).notes if note.startswith("opmerge")]
    start = f"opmerge distill refuses this scheduler: {reason}"
    assert [note.startswith(start) for note in notes] == [True] * (reason is not None)


@pytest.mark.parametrize("deviation", [10**300, 1e300, None])
def test_a_plan_tells_of_numbers_that_no_network_is_read_with(deviation: Any) -> None:
    config = {"_class_name": "CMStochasticIterativeScheduler", "sigma_data": deviation}
    assert "must hold numbers by which" in diffusers_schedule(config, 20).notes[-1]


ARRAYS = "pass the alphas and sigmas of its steps as an .npz file"
ZERO = "`scheduler config` must change the noise level in every step, and step "


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"set_alpha_to_one": False},
            f'{ZERO}1 (timestep 0) has length zero; set "set_alpha_to_one": true or, with leading '
            'spacing, "steps_offset": 1',
        ),
        (
            {"num_train_timesteps": 10, "trained_betas": [0.1] * 4 + [0.0] + [0.1] * 5},
            f"{ZERO}5 (timestep 4) has length zero; pass fewer steps, or betas > 0 that reach 1 at "
            "the last timestep only",
        ),
        (
            {"num_train_timesteps": 9},
            "`num_steps` must be <= num_train_timesteps = 9 of the scheduler config, got 10; "
            "pass `num_steps=9` or fewer",
        ),
        (
            {"num_train_timesteps": 10, "steps_offset": 1},
            "`scheduler config` must take 10 steps (DDIMScheduler says: index 10 is out of bounds "
            f"for axis 0 with size 10); {ARRAYS}",
        ),
        (
            {"timestep_spacing": "even"},
            "`scheduler config` must take 10 steps (DDIMScheduler says: even is not supported. "
            f"Please make sure to choose one of 'leading' or 'trailing'.); {ARRAYS}",
        ),
        (
            {"_class_name": "MyFlowScheduler", "num_train_timesteps": 1000},
            "`_class_name` must be a scheduler that the diffusers installed here has, got "
            f"MyFlowScheduler; install one that has it, or {ARRAYS}",
        ),
        (
            {"_class_name": "DiscreteDDIMScheduler"},
            "`_class_name` must be a scheduler of Gaussian noise levels, got "
            f"DiscreteDDIMScheduler; {ARRAYS}",
        ),
        (
            {"_class_name": "DDIMInverseScheduler"},
            "`_class_name` must go from noise to data, got DDIMInverseScheduler; "
            'set "_class_name": "DDIMScheduler"',
        ),
        ({"_class_name": 3}, f"`_class_name` must be a scheduler of diffusers, got 3; {ARRAYS}"),
        ({**FLUX, "image_seq_len": 0}, "`image_seq_len` must be >= 1, got 0"),
        (
            {**FLOW, "num_train_timesteps": 1, "invert_sigmas": True},  # as of OmniGen
            "`num_train_timesteps` must be > 1, or the sigmas those that a pipeline names, got 1; "
            'pass the folder of the pipeline, or set "sigmas_from_steps": true',
        ),
        (
            {**FLOW, "use_karras_sigmas": True, "sigma_max": 80.0},  # as of Cosmos-Predict2
            "`scheduler config` must have sigmas from 0 to 1, as flow matching has, got 80; "
            f"{ARRAYS}",
        ),
        (
            {"_class_name": "HeliosScheduler"},
            "`stages` must be 1: each of several stages has noise levels of its own, got 3; "
            f"{ARRAYS}",
        ),
        (
            {"sample_size": 32},
            "`scheduler config` must hold the keys of a diffusers scheduler, got ['sample_size']",
        ),
    ],
)
def test_scheduler_configs_refused(config: dict[str, Any], message: str) -> None:
    with raises(message):
        diffusers_schedule(config, 10)
