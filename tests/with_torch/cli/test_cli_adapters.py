"""Students of adapters from the command line: trained, resumed, sampled, measured, fused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from opmerge import GradientFlow, Plan, PlanFile, diffusers_schedule
from opmerge.denoisers.networks import make_unet
from opmerge.denoisers.teacher_folder import write_teacher_folder

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--train_batch_size", 8, "--num_iterations", 4, "--checkpointing_steps", 3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    network = make_unet((1, 8, 8), (32, 32))
    return write_teacher_folder(tmp_path_factory.mktemp("work") / "teacher", network, scheduler)


def distill(teacher: Path, folder: Path, *more: object) -> tuple[object, ...]:
    plan = ("--plan", "[[4,3],[2,1]]", "--steps", 4, "--student_steps", 2)
    at = ("--teacher", teacher, "--output_dir", folder)
    return ("distill", "digits", *at, *plan, *SHORT, "--lora_rank", 2, *more)


def test_adapters_go_the_whole_way(run: Run, teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, out, _ = run(*distill(teacher, folder))
    assert status == 0
    student = folder / "student"
    assert f"written: {student}" in out
    assert not list(student.rglob("diffusion_pytorch_model*"))
    assert json.loads((folder / "config.json").read_text())["options"]["lora_rank"] == 2
    status, out, _ = run("sample", student, "--output", tmp_path / "adapted.npy")
    assert status == 0
    status, out, _ = run(*distill(teacher, tmp_path / "fused", "--fuse_lora"))
    assert status == 0
    assert UNet2DModel.from_pretrained(tmp_path / "fused" / "student", subfolder="unet_2")
    run("sample", tmp_path / "fused" / "student", "--output", tmp_path / "fused.npy")
    samples = [np.load(tmp_path / f"{name}.npy") for name in ("adapted", "fused")]
    np.testing.assert_allclose(*samples, atol=1e-4)
    measured = ("--num_samples", 20, "--num_resamples", 0, "--plan", folder / "plan.json")
    for each in (student, tmp_path / "fused" / "student"):
        status, out, _ = run("evaluate-student", each, "--teacher", teacher, *measured)
        assert status == 0
        (predicted,) = (line for line in out.splitlines() if "predicted error" in line)
        assert predicted.endswith(" nothing of adapters)")


def test_a_run_says_what_its_plans_forecast_does_not_know(
    run: Run, teacher: Path, tmp_path: Path
) -> None:
    schedule, plan = diffusers_schedule(teacher, 4), Plan.from_nested([[4, 3], [2, 1]])
    file = PlanFile(plan, schedule, GradientFlow(), "denoiser-copy", "teacher", iterations=(4, 4))
    replace(file, budget=1e4).write(tmp_path / "plan.json")
    asked = ("distill", "digits", "--teacher", teacher, "--plan", tmp_path / "plan.json")
    for more in ((), ("--one_network", "--lora_rank", 2)):
        short = ("--train_batch_size", 8, "--output_dir", tmp_path / "run", "--dry_run")
        status, _, err = run(*asked, *short, *more)
        assert status == 0
        said = [line for line in err.splitlines() if "knows nothing of" in line]
        assert len(said) == bool(more)
        assert all(line.endswith(" --one_network and --lora_rank") for line in said)


def test_a_dry_run_knows_of_adapters(run: Run, teacher: Path, tmp_path: Path) -> None:
    status, out, _ = run(*distill(teacher, tmp_path / "dry", "--dry_run"))
    assert status == 0
    trained = int(out.split("trained ")[1].split("\n")[0].replace(",", ""))
    whole = int(out.split("parameters: ")[1].split(",  ")[0].split(", trained")[0].replace(",", ""))
    assert trained < whole / 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--lora_target_modules", "to_nothing"), ("lora_target_modules", "to_nothing")),
        (("--lora_rank", 0), ("lora_rank", "must be >= 1")),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Run, teacher: Path, tmp_path: Path, more: tuple[object, ...], words: tuple[str, ...]
) -> None:
    status, out, err = run(*distill(teacher, tmp_path / "bad", *more))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words)


def test_there_must_be_adapters_to_fuse(run: Run, teacher: Path, tmp_path: Path) -> None:
    asked = distill(teacher, tmp_path / "bad")[:-2]
    status, _, err = run(*asked, "--fuse_lora")
    assert (status, err) == (2, "opmerge: `fuse_lora` must come with --lora_rank\n")


def test_one_network_takes_all_steps(run: Run, teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*distill(teacher, folder, "--one_network"))[0] == 0
    assert [path.name for path in (folder / "student").glob("adapter_*")] == ["adapter_1"]
    assert json.loads((folder / "plan.json").read_text()).get("iterations") is None
    assert json.loads((folder / "config.json").read_text())["options"]["sharing"] == "all"
    asked = distill(teacher, tmp_path / "bad", "--one_network", "--sharing", "merge")
    status, _, err = run(*asked)
    assert (status, err.count("\n")) == (2, 1)
    assert "one_network" in err
