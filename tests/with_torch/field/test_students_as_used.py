"""Students as people use them: called as other pipelines are, saved again, distilled at once."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline
from tiny_pipelines import tiny_pipeline
from torch_helpers import scrambled

from opmerge.denoisers.models import Jump, Student, initial_noise
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation import FewStepPipeline, load_student, save_student
from opmerge.errors import InputError

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

SHAPE = (8, 8)


def two_steps() -> Student:
    ddim = DDIM.from_scheduler(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), 4)
    network = scrambled(MLPDenoiser(SHAPE, hidden_size=8, num_layers=1))
    denoiser = ddim.denoiser(network)
    return Student((Jump(denoiser, 4, 2, 2), Jump(denoiser, 2, 0, 0)), ddim, SHAPE)


@pytest.fixture
def pipeline() -> FewStepPipeline:
    made = FewStepPipeline.from_student(two_steps())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(
    "asked",
    [
        {"num_inference_steps": 2},
        {"timesteps": [1000 - 1, 500 - 1]},
        {"guidance_scale": 1.0},
        {"guidance_scale": 1},
        {"eta": 0.0},
        {"num_inference_steps": 2, "eta": 0, "guidance_scale": None},
    ],
)
def test_what_other_pipelines_are_told_is_taken(
    pipeline: FewStepPipeline, seen: Seen, asked: dict[str, Any]
) -> None:
    noise = initial_noise(SHAPE, 2, seed=0)
    expected = pipeline(latents=noise, output_type="np").images
    got = pipeline(latents=noise, output_type="np", **asked).images
    seen(f"pipe({asked})", "the same images", np.array_equal(got, expected))
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_inference_steps": 1}, "`num_inference_steps` must be 2"),
        ({"num_inference_steps": 50}, "`num_inference_steps` must be 2"),
        ({"timesteps": [999, 249]}, r"`timesteps` must be \[999, 499\]"),
        ({"guidance_scale": 7.5}, "`guidance_scale` must be 1 or left out"),
        ({"eta": 1.0}, "`eta` must be 0 or left out"),
    ],
)
def test_what_a_student_cannot_do_is_said(
    pipeline: FewStepPipeline, seen: Seen, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pipeline(**asked)
    seen(f"pipe({asked})", "InputError", str(caught.value)[:60])


def test_a_student_that_diffusers_saved_again_is_opened_as_before(
    tmp_path: Path, seen: Seen
) -> None:
    """The documented call, in a process that has not imported the package, without a network."""
    first = save_student(two_steps(), tmp_path / "first")
    again, thrice = tmp_path / "again", tmp_path / "thrice"
    FewStepPipeline.from_pretrained(first).save_pretrained(again)
    FewStepPipeline.from_pretrained(again).save_pretrained(thrice, max_shard_size="2KB")
    program = (
        "import numpy, sys, torch\n"
        "from diffusers import DiffusionPipeline\n"
        "p = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline='pipeline',"
        " trust_remote_code=True)\n"
        "p.set_progress_bar_config(disable=True)\n"
        "noise = torch.from_numpy(numpy.load(sys.argv[2]))\n"
        "numpy.save(sys.argv[3], p(latents=noise, output_type='np').images)\n"
    )
    noise = initial_noise(SHAPE, 2, seed=0)
    np.save(tmp_path / "noise.npy", noise.numpy())
    expected = (two_steps().sample(noise) / 2 + 0.5).clamp(0, 1).numpy()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "hf")}
    files = (str(thrice), str(tmp_path / "noise.npy"), str(tmp_path / "images.npy"))
    command = [sys.executable, "-c", program, *files]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    got = np.load(tmp_path / "images.npy")
    seen("save_pretrained, documented call", "the student's images", np.array_equal(got, expected))
    assert np.array_equal(got, expected)
    assert torch.equal(load_student(thrice).sample(noise), two_steps().sample(noise))


def test_a_pipelines_student_that_diffusers_saved_again_is_one(tmp_path: Path, seen: Seen) -> None:
    """Two networks of a pipeline on latents, whose jumps are in its scheduler alone then."""
    tiny_pipeline("dit").save_pretrained(tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", 4)
    ddim = teacher.ddim
    networks = (scrambled(copy.deepcopy(teacher.network), seed) for seed in (1, 2))
    first, second = map(ddim.denoiser, networks)
    jumps = (Jump(first, 4, 2, 2), Jump(second, 2, 0, 0))
    student = Student(jumps, ddim, teacher.sample_shape, teacher.needs)
    folder = save_student(student, tmp_path / "student", teacher)
    DiTPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    noise, classes = initial_noise(teacher.sample_shape, 2, seed=0), torch.tensor([0, 1])
    expected = load_student(folder).sample(noise, classes)
    got = load_student(tmp_path / "again").sample(noise, classes)
    seen("a DiT student saved again", "the same samples", torch.equal(got, expected))
    assert torch.equal(got, expected)


HOLD = """
import sys, time
from pathlib import Path
import click
from opmerge.cli import runs
with click.Context(click.Command("hold")):
    runs.prepare_folder(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has asked for the folder ``tmp_path/run``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def commands(teacher: Path, run: Path) -> dict[str, tuple[object, ...]]:
    few = ("--num_iterations", 2)
    network = ("digits", "--teacher", teacher, "--steps", 4)
    return {
        "distill": (*network, "--plan", "boot", *few),
        "calibrate": (*network, *few),
        "run": (*network, "--budget", "1e4"),
        "train-teacher": ("digits", *few, "--hidden_size", 8),
        "plan": ("digits", "--steps", 8),
        "compare": ("digits", "--steps", 8),
        "evaluate": ("digits", "--steps", 8, "--plan", "boot"),
        "spectrum": ("digits",),
        "prepare": ("digits", "--teacher", teacher),
        "vae train": ("digits",),
        "study": ("phase", "--quick"),
    }


def test_a_folder_belongs_to_one_command_at_a_time(
    teacher: Path, tmp_path: Path, holder: subprocess.Popen[str], run: Run, seen: Seen
) -> None:
    folder = tmp_path / "run"
    for name, arguments in commands(teacher, folder).items():
        status, _, err = run(*name.split(), *arguments, "--output_dir", folder)
        seen(f"two at once: {name}", "exit 2", f"exit {status}")
        assert status == 2, name
        assert "must be a folder that no other command is writing to" in err
        assert list(folder.iterdir()) == []
    status, _, err = run("report", folder)  # which writes where the record is
    assert (status, "no other command" in err) == (2, True)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    status, _, _ = run("plan", "digits", "--steps", 8, "--output_dir", folder)
    seen("after the other was killed", "exit 0", f"exit {status}")
    assert status == 0
    status, _, _ = run("plan", "digits", "--steps", 8, "--output_dir", folder)
    assert status == 0  # nor does one that has ended hold it


def test_a_run_that_starts_anew_in_a_used_folder_says_so_and_is_as_in_a_new_one(
    tmp_path: Path, run: Run, seen: Seen
) -> None:
    def train(folder: str, seed: int, *more: object) -> tuple[int, str, bytes]:
        size = ("--hidden_size", 8, "--num_iterations", 4, "--checkpointing_steps", 2)
        asked = ("digits", "--output_dir", tmp_path / folder, "--seed", seed, *size, *more)
        status, _, err = run("train-teacher", *asked)
        (weights,) = (tmp_path / folder / "teacher").rglob("*.safetensors")
        return status, err, weights.read_bytes()

    first = train("used", 0)
    again = train("used", 1)
    resumed = train("used", 1, "--resume_from_checkpoint", "latest")
    new = train("new", 1)
    told = ["starting anew" in err for _, err, _ in (first, again, resumed, new)]
    seen("a run in a used folder", "told, and as in a new one", told)
    assert [status for status, _, _ in (first, again, resumed, new)] == [0] * 4
    assert told == [False, True, False, False]
    assert again[2] == resumed[2] == new[2] != first[2]
