"""Teachers with other samplers, and clipping ones, through the commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from PIL import Image
from torch_helpers import scrambled

from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.plans import PlanFile

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
SHORT = ("--train_batch_size", 16, "--num_iterations", 4, "--linear_part", "train")
SAMPLERS: dict[str, Any] = {
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "EDM": EDMEulerScheduler(sigma_max=20.0),
}


def teacher_in(folder: Path, scheduler: SchedulerMixin, network: Any = None) -> Path:
    """The folder of a perceptron for digits, or of another network, with any scheduler."""
    network = network or scrambled(MLPDenoiser([1, 8, 8], 16, 1))
    write_teacher_folder(folder, network, DDIMScheduler())
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def done(result: tuple[int, str, str]) -> str:
    """What a command that succeeds says."""
    status, out, err = result
    assert status == 0, err
    return out + err


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_samplers_go_the_whole_way(run: Run, tmp_path: Path, name: str) -> None:
    """Plan, distil, calibrate, sample and measure; a student of no merges is its teacher."""
    teacher = teacher_in(tmp_path / "teacher", SAMPLERS[name])
    plan, student = tmp_path / "plan" / "plan.json", tmp_path / "run" / "student"
    schedule = ("--schedule", teacher, "--steps", STEPS)
    said = done(run("plan", "digits", *schedule, "--output_dir", tmp_path / "plan"))
    assert "refuses" not in said
    done(
        run(
            *("distill", "digits", "--teacher", teacher, "--plan", plan),
            *("--output_dir", tmp_path / "run", *SHORT),
        )
    )
    few = ("--num_samples", 8)
    done(run("sample", student, "--output", tmp_path / "student.npy", *few))
    assert np.isfinite(np.load(tmp_path / "student.npy")).all()
    measured = run(
        *("evaluate-student", student, "--teacher", teacher, "--plan", plan),
        *("--num_samples", 16, "--num_resamples", 0, "--json"),
    )
    assert json.loads(measured[1])["paired_error"]["value"] > 0
    done(
        run(
            *("calibrate", "digits", "--teacher", teacher, "--steps", STEPS, *SHORT),
            *("--output_dir", tmp_path / "calibration"),
        )
    )
    done(
        run(
            *("distill", "digits", "--teacher", teacher, "--plan", "[4,3,2,1]"),
            *("--student_steps", 4, "--output_dir", tmp_path / "same", *SHORT),
        )
    )
    for place, steps in ((tmp_path / "same" / "student", ()), (teacher, ("--steps", STEPS))):
        done(run("sample", place, "--output", tmp_path / f"{place.name}.npy", *few, *steps))
    both = np.load(tmp_path / "student.npy"), np.load(tmp_path / "teacher.npy")
    assert np.array_equal(*both)


def test_a_clipping_teacher_is_taken_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    network = scrambled(MLPDenoiser([1, 8, 8], 16, 1))
    teacher = teacher_in(tmp_path / "teacher", DDIMScheduler(), network)
    plain = teacher_in(tmp_path / "plain", DDIMScheduler(clip_sample=False), network)
    commands = {
        "distill": ("digits", "--plan", "boot", "--steps", STEPS, "--teacher", teacher, *SHORT),
        "calibrate": ("digits", "--steps", STEPS, "--teacher", teacher, *SHORT),
    }
    for name, arguments in commands.items():
        output = ("--output_dir", tmp_path / name)
        status, _, err = run(name, *arguments, *output)
        assert status == 2
        assert err.count("\n") == 1
        assert "--ignore_clipping" in err.replace("`ignore_clipping`", "--ignore_clipping")
        said = done(run(name, *arguments, *output, "--ignore_clipping"))
        assert "clip_sample of the teacher is ignored" in said
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["options"]["ignore_clipping"] is True
    said = done(run("plan", "digits", "--schedule", teacher, "--steps", STEPS))
    assert "opmerge distill takes such a teacher with --ignore_clipping only" in re.sub(
        r"\s+", " ", said
    )
    few = ("--steps", STEPS, "--num_samples", 8)
    drawn = {}
    for place, more in ((teacher, ("--ignore_clipping",)), (plain, ())):
        said = done(run("sample", place, "--output", tmp_path / "t.npy", *few, *more))
        drawn[place] = np.load(tmp_path / "t.npy"), said
    unclipped, said = drawn[teacher]
    assert np.array_equal(unclipped, drawn[plain][0])
    assert "clip_sample" not in drawn[plain][1]
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    from opmerge.denoisers.models import initial_noise

    z = initial_noise((1, 8, 8), 8, seed=0)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            z = scheduler.step(network(z, timestep).sample, timestep, z).prev_sample
    moved = float(np.sqrt(np.square(unclipped - z.numpy()).mean()))
    (told,) = re.findall(r"its samples move by (\S+) \(rms\)", said)
    assert float(told) == pytest.approx(moved, rel=6e-3)


def test_a_plan_for_other_data_is_refused(run: Run, tmp_path: Path) -> None:
    teacher = teacher_in(tmp_path / "teacher", DDIMScheduler(clip_sample=False))
    digits = np.load(write_digits(tmp_path / "digits.npy"))
    np.save(tmp_path / "scaled.npy", 3 * digits)
    np.save(tmp_path / "wide.npy", np.tile(digits, (1, 1, 2)))
    plans = {}
    for name in ("digits", "scaled", "wide"):
        schedule = ("--schedule", teacher, "--steps", STEPS, "--output_dir", tmp_path / name)
        done(run("plan", tmp_path / f"{name}.npy", *schedule))
        plans[name] = PlanFile.read(tmp_path / name / "plan.json")
    assert plans["digits"].spectrum["dimensions"] == 64
    trace = float(digits.reshape(len(digits), -1).var(0).sum())
    assert plans["digits"].spectrum["trace"] == pytest.approx(trace)
    assert plans["scaled"].spectrum["trace"] == pytest.approx(9 * trace)

    def distill(name: str, *more: object) -> tuple[int, str, str]:
        plan = ("--plan", tmp_path / name / "plan.json", "--teacher", teacher, *SHORT)
        return run("distill", tmp_path / "digits.npy", *plan, "--output_dir", tmp_path / "r", *more)

    for name, message in (
        ("scaled", f"must be made for data of this run's total variance, {trace:.4g}, got "),
        ("wide", "must be made for samples of the shape that the teacher reads, (1, 8, 8), got "),
    ):
        status, out, err = distill(name)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"`plan` {message}" in err
    assert not (tmp_path / "r" / "plan.json").exists()
    done(distill("digits"))


def test_images_take_the_size_and_the_colours_of_the_teacher(run: Run, tmp_path: Path) -> None:
    unet = make_unet((1, 8, 8), (8, 8), None)
    teacher = teacher_in(tmp_path / "teacher", DDIMScheduler(clip_sample=False), unet)
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(40):
        pixels = generator.integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    schedule = ("--schedule", teacher, "--steps", STEPS, "--output_dir", tmp_path / "plan")
    done(run("plan", tmp_path / "images", *schedule))
    plan = tmp_path / "plan" / "plan.json"
    assert PlanFile.read(plan).spectrum["dimensions"] == 64
    config = json.loads((tmp_path / "plan" / "config.json").read_text())["options"]
    assert (config["image_size"], config["grey"]) == (8, True)
    done(
        run(
            *("distill", tmp_path / "images", "--teacher", teacher, "--plan", plan, *SHORT),
            *("--output_dir", tmp_path / "run"),
        )
    )
    shutil.rmtree(tmp_path / "run")
    result = run(
        *("distill", tmp_path / "images", "--teacher", teacher, "--plan", plan, *SHORT),
        *("--image_size", 16, "--output_dir", tmp_path / "run"),
    )
    assert result[0] == 2
    assert "must hold samples of the shape that the network reads, (1, 8, 8)" in result[2]


def write_digits(path: Path) -> Path:
    """Digits as samples (N, 8, 8), fewer of them."""
    from opmerge.data import open_source

    np.save(path, next(open_source("digits").batches())[:200].reshape(-1, 8, 8))
    return path
