"""The commands that train, sample and measure, each really run on a small network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch_helpers import files_up_to

from opmerge.data import digits_labels, open_source
from opmerge.forecast.cost import IterationCost
from opmerge.plans import PlanFile
from opmerge.schedules import diffusers_schedule
from opmerge.training import GammaRates

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
SMALL = ("--hidden_size", 16, "--num_layers", 1, "--train_batch_size", 32)
SHORT = ("--train_batch_size", 16, "--num_iterations", 6, "--checkpointing_steps", 5)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, a plan file for it, and a student of that plan."""
    from opmerge.cli import main

    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: object) -> None:
        assert main([str(argument) for argument in arguments]) == 0

    call(
        *("train-teacher", "digits", "--output_dir", folder / "trained", *SMALL),
        *("--num_iterations", 20, "--ema_decay", 0.9, "--prediction_type", "v_prediction"),
    )
    teacher = folder / "trained" / "teacher"
    call(
        *("plan", "digits", "--schedule", teacher, "--steps", STEPS, "--merge_rule"),
        *("denoiser-copy", "--output_dir", folder / "plan"),
    )
    call(
        *("distill", "digits", "--teacher", teacher, "--plan", folder / "plan" / "plan.json"),
        *("--output_dir", folder / "run", *SHORT),
    )
    return folder


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Status 2 and one line that says all these words."""
    status, out, err = result
    assert (status, out) == (2, ""), result
    assert err.startswith("opmerge: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err, (word, err)


def distill(
    work: Path, *more: object, plan: object = "boot", output: str = "other"
) -> list[object]:
    return [
        *("distill", "digits", "--teacher", work / "trained" / "teacher", "--plan", plan),
        *(("--steps", STEPS) if plan == "boot" else ()),
        *("--output_dir", work / output, *SHORT, *more),
    ]


def test_a_run_directory_holds_what_a_run_needs(work: Path) -> None:
    folder = work / "run"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "plan.json", "metrics.jsonl", "student", "samples.png"} <= names
    kept = {name for name in names if name.startswith("checkpoint-")}
    assert kept == {"checkpoint-15", "checkpoint-18"}  # the newest two of 5, 10, 15 and the end
    config = json.loads((folder / "config.json").read_text())
    assert config["command"] == "distill"
    assert config["options"]["num_iterations"] == 6
    assert (config["options"]["steps"], config["options"]["student_steps"]) == (STEPS, 1)
    assert PlanFile.read(folder / "plan.json").iterations == (6, 6, 6)
    assert {"torch", "diffusers", "accelerate", "opmerge"} <= set(config["versions"])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == 18  # 3 merges of 6 iterations


def test_sample_writes_a_grid_and_an_array(run: Run, work: Path) -> None:
    student = work / "run" / "student"
    assert run("sample", student, "--output", work / "s.png", "--num_samples", 9)[0] == 0
    with Image.open(work / "s.png") as picture:
        assert picture.size == (24, 24)  # 3 x 3 digits of 8 x 8
    assert run("sample", student, "--output", work / "s.npy", "--num_samples", 9)[0] == 0
    assert np.load(work / "s.npy").shape == (9, 1, 8, 8)
    teacher = work / "trained" / "teacher"
    few = ("--num_samples", 2, "--steps", STEPS)
    assert run("sample", teacher, "--output", work / "t.npy", *few)[0] == 0
    refused(run("sample", teacher, "--output", work / "t.npy"), "steps", "--steps 64")
    for folder, message in (
        (work / "run", f"must be the folder of a model, got that of a run; pass {student}"),
        (work / "trained", f"must be the folder of a model, got that of a run; pass {teacher}"),
    ):
        result = run("sample", folder, "--output", work / "t.npy")
        assert result == (2, "", f"opmerge: `model` {message}\n")
    refused(run("sample", work / "nowhere", "--output", work / "t.npy"), "`model` must be an exist")
    refused(run("sample", student, "--output", work / "s.gif"), "output", ".png")
    refused(run("sample", student, "--output", work / "s.npy", *few), "steps", "left out")


def test_evaluate_student_sets_predicted_beside_measured(run: Run, work: Path) -> None:
    plan = work / "plan" / "plan.json"
    arguments = (
        *("evaluate-student", work / "run" / "student", "--teacher", work / "trained" / "teacher"),
        *("--source", "digits", "--num_samples", 100, "--num_resamples", 9, "--plan", plan),
    )
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["predicted_w2"] == PlanFile.read(plan).predicted["w2"]
    assert len(found["directions"]["errors"]) == 64
    assert sum(found["directions"]["errors"]) == pytest.approx(found["paired_error"]["value"])
    status, out, _ = run(*arguments)
    assert status == 0
    assert "predicted W2" in out
    assert out.splitlines()[-6].endswith("of the largest of 64 λ")
    assert [line.split(" = ")[0].strip() for line in out.splitlines()[-5:]] == [
        f"λ_{number}" for number in range(1, 6)
    ]


def test_dry_run_says_the_cost_and_writes_nothing(run: Run, work: Path) -> None:
    status, out, _ = run(*distill(work, "--dry_run", output="dry"))
    assert status == 0
    for word in ("network evaluations", "MiB", "expected duration", "networks held at once"):
        assert word in out
    # Σ batch · (batches of targets · (children + 1) + 3 iterations), solved from 8 pairs of each of
    # 65 regressors: 3 merges · 16 · (33 · (2 + 1) + 3 · 6)
    assert "5,616" in out
    assert not list((work / "dry").glob("*"))


def test_what_is_left_out_of_a_teachers_sampler_is_said(
    run: Run, work: Path, tmp_path: Path
) -> None:
    """Of a class that is unknown here, in steps that do not divide the training timesteps."""
    teacher = Path(shutil.copytree(work / "trained" / "teacher", tmp_path / "teacher"))
    path = teacher / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "Foo"}))
    status, _, err = run(
        *("distill", "digits", "--teacher", teacher, "--plan", "boot", "--steps", 3, *SHORT),
        *("--output_dir", tmp_path / "run", "--dry_run"),
    )
    assert status == 0
    first, second = diffusers_schedule(teacher, 3).notes
    assert err == f"opmerge: {first}\nopmerge: {second}\n"
    assert first.startswith("Foo is read as the DDIM teacher of the same betas")
    assert second.startswith("DDIMScheduler.step lands up to")


def test_dry_run_counts_data_that_exceed_memory_and_does_not_write_them(
    run: Run, work: Path, tmp_path: Path
) -> None:
    """A file with a hole stands for 2.2 GiB of samples: 9 M of 64 float32 values."""
    large = np.lib.format.open_memmap(
        tmp_path / "large.npy", mode="w+", dtype=np.float32, shape=(9 * 2**20, 1, 8, 8)
    )
    large.flush()
    trial = distill(work, "--dry_run", output="large")
    trial[1] = tmp_path / "large.npy"
    status, out, _ = run(*trial)
    assert status == 0
    assert "2,304.0 MiB of samples\n" in out  # 9 · 2^20 · 64 · 4 bytes, in the line of the disk
    assert "0.0 MiB of samples in main memory" in out
    assert not list((work / "large").glob("*"))
    _, out, _ = run(*distill(work, "--dry_run", output="small"))
    assert "0.4 MiB of samples in main memory" in out  # 1797 · 64 · 4 bytes
    assert "0.0 MiB of samples\n" in out


def test_a_strategy_is_executed_as_a_plan_file_with_its_prediction(run: Run, work: Path) -> None:
    assert run(*distill(work, plan="boot", output="named"))[0] == 0
    teacher, path = work / "trained" / "teacher", work / "named" / "plan.json"
    assert not (work / "named" / "students.json").exists()
    file = PlanFile.read(path)
    assert file.plan.to_nested() == [[[[4, 3], 2], 1]]
    assert (file.merge_rule, file.objective) == ("denoiser-copy", "teacher")
    problem = ("digits", "--schedule", teacher, "--merge_rule", "denoiser-copy")
    status, out, _ = run("evaluate", *problem, "--plan", "[[[4,3],2],1]", "--json")
    assert status == 0
    w2 = json.loads(out)["plan"]["w2"]
    assert file.predicted == {"w2": w2, "lower_bound": 0.0, "gap": 1.0}
    _, out, _ = run("evaluate", "digits", "--plan", path, "--json")  # all that it needs is in it
    assert json.loads(out)["plan"]["w2"] == w2
    assert "another spectrum" not in out
    student = ("evaluate-student", work / "named" / "student", "--teacher", teacher)
    status, out, _ = run(*student, "--num_samples", 8, "--plan", path, "--json")
    assert status == 0
    assert json.loads(out)["predicted_w2"] == w2
    assert run(*distill(work, plan=path, output="again"))[0] == 0
    student = Path("student", "unet", "diffusion_pytorch_model.safetensors")
    assert (work / "again" / student).read_bytes() == (work / "named" / student).read_bytes()


def test_a_free_step_comes_before_a_strategy_lists_and_in_a_file(run: Run, work: Path) -> None:
    """All three are the same plan, and the same student."""
    free = ("--free_step", 3)
    assert run(*distill(work, *free, output="stepped"))[0] == 0
    path = work / "stepped" / "plan.json"
    content = json.loads(path.read_text())
    kept = (content["steps"], content["free_step"], content["students"])
    assert kept == (STEPS, 3, [[[3, 2], 1]])
    lists = distill(work, *free, "--steps", STEPS, plan="[[3,2],1]", output="free_lists")
    for again in (lists, distill(work, plan=path, output="free_file")):
        assert run(*again)[0] == 0
        student = Path("student", "scheduler", "linear_part.safetensors")
        folder = work / str(again[again.index("--output_dir") + 1])
        assert (folder / student).read_bytes() == (work / "stepped" / student).read_bytes()
    status, out, _ = run("evaluate", "digits", "--plan", path, "--json")
    assert (status, json.loads(out)["plan"]["free_step"]) == (0, 3)
    teacher = work / "trained" / "teacher"
    measure = ("evaluate-student", work / "stepped" / "student", "--teacher", teacher)
    assert run(*measure, "--num_samples", 8, "--plan", path)[0] == 0
    _, out, err = run("export", path, "--to", "fastgen", "--time", "trig")
    schedule = PlanFile.read(path).schedule
    level = np.arctan2(schedule.sigmas[3], schedule.alphas[3])
    assert json.loads(out) == [pytest.approx(level), 0.0]
    assert "starts at step 3" in err
    refused(run(*distill(work, "--free_step", 2, plan=path)), "`free_step` must be 3")
    refused(run(*distill(work, "--free_step", STEPS)), "`free_step` must be in 1 … 3")
    plain = work / "plan" / "plan.json"
    refused(run(*distill(work, *free, plan=plain)), "`free_step` must be left out")
    refused(run(*distill(work, *free, plan="[[3,2],1]")), "`steps` must be given with a free step")
    refused(run(*distill(work, "--free_step", 2, "--steps", 4, plan="[[3,2],1]")), "must be 3")
    no_data = distill(work, *free, "--data_free")
    no_data[1] = "none"
    refused(run(*no_data), "`data_free` must be left out")


def test_a_killed_run_goes_on_and_the_log_has_every_step_once(run: Run, work: Path) -> None:
    assert run(*distill(work, output="whole"))[0] == 0
    assert run(*distill(work, output="cut"))[0] == 0
    log = work / "cut" / "metrics.jsonl"
    with log.open("a") as stream:
        stream.write('{"step": 99')  # as a kill leaves it
    student = work / "cut" / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = work / "whole" / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    student.unlink()
    again = distill(work, "--resume_from_checkpoint", "checkpoint-15", output="cut")
    assert run(*again)[0] == 0
    assert student.read_bytes() == whole.read_bytes()
    assert log.read_text() == (work / "whole" / "metrics.jsonl").read_text()


def test_one_step_plans_and_data_free_training(run: Run, work: Path) -> None:
    free = distill(work, "--data_free", output="free")
    refused(run(*free), "source", "none")
    free[1] = "none"
    assert run(*free)[0] == 0
    file = PlanFile.read(work / "free" / "plan.json")  # which can say nothing of data
    assert (file.plan.to_nested(), file.predicted, file.spectrum) == ([[[[4, 3], 2], 1]], {}, {})
    assert run("evaluate", "digits", "--plan", work / "free" / "plan.json")[0] == 0
    refused(run(*distill(work, "--data_free", plan="[4,[3,[2,1]]]", output="no")), "source")
    nested = distill(work, "--data_free", plan="[4,[3,[2,1]]]", output="no")
    nested[1] = "none"
    refused(run(*nested), "data_free", "step T = 4")


def test_export_prints_the_step_list(run: Run, work: Path) -> None:
    plan = work / "plan" / "plan.json"
    status, out, _ = run("export", plan, "--to", "fastgen", "--time", "trig")
    assert status == 0
    assert json.loads(out) == [pytest.approx(np.pi / 2), 0.0]
    status, out, _ = run("export", plan, "--to", "comfyui")
    assert (status, out.split(", ")[-1].strip()) == (0, "0")
    refused(run("export", plan, "--to", "elsewhere"), "to", "fastgen, comfyui")
    for folder, lines in (("plan", 0), ("run", 1)):  # beside a student whose linear part is solved
        _, _, err = run("export", work / folder / "plan.json", "--to", "comfyui")
        assert err.count("linear part") == err.count("\n") == lines


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--num_iterations", "0"), ("num_iterations", ">= 1")),
        (("--num_iterations", "5,5"), ("num_iterations", "3, one a stage")),
        (("--num_iterations", "x"), ("num_iterations", "whole numbers")),
        (("--learning_rate", "-1"), ("learning_rate", "> 0")),
        (("--lr_scheduler", "wavy"), ("lr_scheduler", "cosine")),
        (("--optimizer", "lion"), ("optimizer", "adamw")),
        (("--mixed_precision", "int8"), ("mixed_precision", "bf16")),
        (("--mixed_precision", "fp16"), ("mixed_precision", "no or bf16 on the CPU")),
        (("--loss_weighting", "epsilon-space"), ("loss_weighting", "snr-truncated")),
        (("--sharing", "some"), ("sharing", "round")),
        (("--target_reuse", "0"), ("target_reuse", ">= 1")),
        (("--target_reuse", "x"), ("target_reuse",)),
        (("--target_reuse", "2", "--curriculum", "linear"), ("target_reuse", "a curriculum")),
        (("--linear_part", "no"), ("linear_part", "auto, solve, train")),
        (("--linear_part", "solve", "--curriculum", "linear"), ("linear_part", "a curriculum")),
        (("--report_to", "nothing"), ("report_to",)),
        (("--labels", "digits"), ("labels", "left out")),
        (("--resume_from_checkpoint", "checkpoint-7"), ("resume_from_checkpoint", "none")),
        (
            ("--learning_rate", "1e30", "--max_grad_norm", "0", "--lr_warmup_steps", "0"),
            ("finite", "merge 4", "lower"),
        ),
        (("--train_batch_size", 10**13), ("not enough memory for a batch", "--train_batch_size")),
        (("--plan", "[[4, 3], [2, 1]]", "--steps", "9"), ("`steps` must be 4, as the plan's",)),
    ],
)
def test_bad_settings_are_one_line(
    run: Run, work: Path, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(run(*distill(work, *more, output="bad")), *words)
    assert not (work / "bad" / "student").exists()


def test_plans_and_data_that_do_not_fit_the_teacher(run: Run, work: Path, tmp_path: Path) -> None:
    plan = work / "plan" / "plan.json"
    other = json.loads(plan.read_text())
    del other["schedule"]
    for name in ("linear", "nichol-dhariwal"):
        wrong = tmp_path / f"{name}.json"
        wrong.write_text(json.dumps({**other, "schedule": {"name": name, "parameters": {}}}))
        refused(run(*distill(work, plan=wrong)), "schedule")
    refused(run(*distill(work, "--steps", 8, plan=plan)), "steps", "must be 4")
    refused(run(*distill(work, plan=tmp_path / "none.json")), "none.json")
    data = distill(work)
    data[1] = tmp_path / "wide.npy"
    np.save(data[1], np.zeros((5, 9)))
    refused(run(*data), "shape")
    gone = distill(work)
    gone[3] = tmp_path / "no-teacher"
    refused(run(*gone), "teacher", "must be an existing folder")


def test_a_refused_command_leaves_the_files_of_a_run(run: Run, work: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("of a finished run")
    np.save(tmp_path / "equal.npy", np.zeros((5, 8, 8)))
    teacher = ("--teacher", work / "trained" / "teacher", "--output_dir", tmp_path)
    equal = ("distill", tmp_path / "equal.npy", "--plan", "boot", "--steps", STEPS, *SHORT)
    refused(run(*equal, *teacher), "must hold samples that differ")
    nowhere = ("--output_dir", tmp_path, "--resume_from_checkpoint", "checkpoint-9")
    refused(run("train-teacher", "digits", *SMALL, *nowhere), "resume_from_checkpoint")
    assert (tmp_path / "config.json").read_text() == "of a finished run"
    assert not (tmp_path / "plan.json").exists()
    refused(run("train-teacher", "nosuch", *SMALL, "--output_dir", tmp_path / "new"), "data")
    assert not (tmp_path / "new").exists()


def test_labels_are_classes_of_the_teacher(run: Run, work: Path, tmp_path: Path) -> None:
    """A teacher of digits 0 to 4 alone has no class 9; nothing is written."""
    digits = open_source("digits")
    half = digits_labels() < 5
    np.save(tmp_path / "few.npy", np.concatenate(list(digits.batches()))[half].reshape(-1, 1, 8, 8))
    np.save(tmp_path / "labels.npy", digits_labels()[half])
    status, *_ = run(
        *("train-teacher", tmp_path / "few.npy", "--labels", tmp_path / "labels.npy", *SMALL),
        *("--output_dir", tmp_path / "run", "--num_iterations", 2, "--validation_fraction", 0),
    )
    assert status == 0
    data = distill(work, "--labels", "digits", output="unlabelled")
    data[3] = tmp_path / "run" / "teacher"
    refused(run(*data), "`labels` must be < 5, the number of the teacher's classes, got 9")
    assert not (work / "unlabelled" / "plan.json").exists()


def test_paths_may_begin_with_the_home_folder(
    run: Run, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--output_dir=~/run``: shells leave the tilde of such a word as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "few.npy", np.eye(3))
    assert run("spectrum", "~/few.npy", "--output_dir=~/run")[0] == 0
    assert (tmp_path / "run" / "spectrum.npz").exists()
    (tmp_path / "linked").symlink_to(work)
    student = "~/linked/run/student"
    assert run("sample", student, "--output=~/x.npy", "--num_samples", 2)[0] == 0
    assert (tmp_path / "x.npy").exists()
    assert run("export", "~/linked/plan/plan.json", "--to", "comfyui")[0] == 0
    assert run("evaluate", "eigenvalues:1", "--plan=~/linked/plan/plan.json")[0] == 0
    phase = ("--set", "steps=[16]", "--set", "denoiser_steps=[]", "--set", "num_eigenvalues=10")
    assert run("study", "phase", *phase, "--num_workers", 1, "--output_dir=~/phase")[0] == 0
    assert (tmp_path / "phase" / "report.html").exists()


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from opmerge.cli import main; main([{!r}, '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    for command in ("distill", "train-teacher", "sample", "evaluate-student", "calibrate"):
        subprocess.run([sys.executable, "-c", code.format(command)], check=True, stdout=-3)


def test_torchrun_on_two_processes_gives_the_student_of_one(work: Path, run: Run) -> None:
    # solved on fewer pairs than values, targets leave gradients of rounding, which Adam magnifies
    size = ("--train_batch_size", 8, "--linear_part", "train")
    one = distill(work, *size, "--gradient_accumulation_steps", 2, output="one")
    assert run(*one)[0] == 0
    two = distill(work, *size, output="two")
    launcher = (*("-m", "torch.distributed.run"), "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *launcher, "-m", "opmerge.cli", *map(str, two)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: ") == 2  # the main process alone speaks
    place = Path("student", "unet", "diffusion_pytorch_model.safetensors")
    expected, found = (load_file(work / name / place) for name in ("one", "two"))
    for name, weights in expected.items():
        # 18 steps of Adam at 3e-4 carry a last-bit difference of gradients into the weights
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-5)


def test_tensorboard_gets_the_losses(work: Path, run: Run) -> None:
    assert run(*distill(work, "--report_to", "tensorboard", output="board"))[0] == 0
    assert list((work / "board").rglob("events.out.tfevents.*"))


def test_what_cannot_be_saved_is_refused_before_training(run: Run, work: Path) -> None:
    taken = work / "taken" / "student"
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("keep me")
    refused(run(*distill(work, output="taken")), "student", "new, empty")
    assert not list((work / "taken").glob("checkpoint-*"))
    many = distill(work, "--student_steps", 12, plan="progressive", output="many")
    refused(run(*many, "--steps", 24), "student", "at most 8 networks", "--sharing round")


def test_a_finished_teacher_is_resumed_without_more_training(run: Run, work: Path) -> None:
    folder = work / "finished"
    train = ("train-teacher", "digits", "--output_dir", folder, *SMALL, "--num_iterations", 4)
    every = ("--checkpointing_steps", 2)
    assert run(*train, *every)[0] == 0
    log = (folder / "metrics.jsonl").read_text()
    assert run(*train, *every, "--resume_from_checkpoint", "latest")[0] == 0
    assert (folder / "metrics.jsonl").read_text() == log


@pytest.mark.parametrize("command", ["distill", "train-teacher"])
def test_a_result_without_room_says_how_to_go_on(run: Run, work: Path, command: str) -> None:
    """To the same bits, with nothing trained again."""
    folder = work / f"cramped-{command}"
    train = ("train-teacher", "digits", *SMALL, "--num_iterations", 4, "--checkpointing_steps", 2)
    start = distill(work, output=folder.name) if command == "distill" else list(train)
    again = [*start, "--output_dir", folder, "--resume_from_checkpoint", "latest"]
    assert run(*again)[0] == 0
    result = folder / ("student" if command == "distill" else "teacher")
    (weights,) = result.rglob("diffusion_pytorch_model.safetensors")
    whole, log = weights.read_bytes(), (folder / "metrics.jsonl").read_text()
    shutil.rmtree(result)
    with files_up_to(5000):
        refusal = run(*again)
    assert refusal[:2] == (2, "")
    assert refusal[2].splitlines()[-1] == (
        f"opmerge: `{result}` cannot be written (File too large); "
        "make room and resume; what is finished is kept"
    )
    assert run(*again)[0] == 0
    assert weights.read_bytes() == whole
    assert (folder / "metrics.jsonl").read_text() == log


def test_samples_that_are_no_images_have_no_picture(run: Run, tmp_path: Path) -> None:
    """Four channels, as latents have."""
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).standard_normal((8, 4, 2, 2)))
    train = ("train-teacher", tmp_path / "latents.npy", "--output_dir", tmp_path, *SMALL)
    assert run(*train, "--num_iterations", 2)[0] == 0
    student = ("distill", tmp_path / "latents.npy", "--teacher", tmp_path / "teacher", "--steps", 2)
    assert run(*student, "--plan", "vanilla", "--output_dir", tmp_path / "run", *SHORT)[0] == 0
    assert (tmp_path / "run" / "student" / "unet").is_dir()
    assert not (tmp_path / "run" / "samples.png").exists()


def test_the_plan_says_what_a_student_keeps(run: Run, work: Path) -> None:
    plan = work / "plan" / "plan.json"
    status, _, err = run(*distill(work, "--merge_rule", "operator_copy", plan=plan, output="rule"))
    assert status == 0
    assert "made for denoiser-copy" in err
    config = json.loads((work / "rule" / "config.json").read_text())
    assert config["options"]["merge_rule"] == "operator-copy"
    student = work / "run" / "student"
    other = json.loads(plan.read_text())
    other["students"] = [[4, 3], [2, 1]]
    wrong = work / "wrong.json"
    wrong.write_text(json.dumps(other))
    measure = ("evaluate-student", student, "--teacher", work / "trained" / "teacher")
    refused(run(*measure, "--plan", wrong), "plan", "student's jumps")


def test_a_calibration_predicts_for_the_rule_that_it_was_made_for(run: Run, work: Path) -> None:
    teacher, folder = work / "trained" / "teacher", work / "calibration"
    probes = ("calibrate", "digits", "--teacher", teacher, "--steps", STEPS, "--half_rate")
    probes += ("--linear_part", "train")
    status, out, _ = run(*probes, "--num_iterations", 8, "--output_dir", folder)
    assert status == 0
    assert "gamma-rates" in out
    plan = ("plan", "digits", "--schedule", teacher, "--steps", STEPS, "--training")
    file = folder / "calibration.json"
    other = ("--merge_rule", "operator-copy")
    refused(run(*plan, file, *other, "--json"), "merge_rule", "denoiser-copy, as calibrated")
    status, out, _ = run(*plan, file, "--json")  # both commands have the same default
    assert status == 0
    found = json.loads(out)
    assert found["problem"]["training"] == json.loads(file.read_text())["training"]
    assert found["best"]["w2"] > 0.1  # what 8 iterations leave of errors of several units


def test_a_calibration_says_first_how_linear_the_teacher_is(run: Run, work: Path) -> None:
    folder = work / "linear"
    probes = ("calibrate", "digits", "--teacher", work / "trained" / "teacher", "--steps", STEPS)
    probes += ("--num_iterations", 4, "--output_dir", folder)
    status, out, err = run(*probes)
    assert status == 0
    content = json.loads((folder / "calibration.json").read_text())
    scores = [content["linearity"][key] for key in ("steps", "affine", "spectral")]
    for row in zip(*scores, strict=True):
        line = "│ {} │ {:>15.3f} │ {:>23.3f} │".format(*row)
        assert line in out, (line, out)
    first = out.index("gamma-rates")
    assert out.index("best affine map") < first
    # a teacher of 20 iterations is none of the digits; what is said first is no result yet
    told = [note for note in content["notes"] if note.startswith("the teacher is ")]
    assert told
    assert all(err.index(note) < err.index("training probes") for note in told)
    assert all(out.count(f"note: {note}\n") == 1 for note in content["notes"])
    options = json.loads((folder / "config.json").read_text())["options"]
    assert (options["steps"], options["half_rate"]) == (STEPS, False)
    (folder / "calibration.json").unlink()
    (folder / "calibration.json").mkdir()  # what is refused at the end has printed no result
    status, out, err = run(*probes)
    assert (status, out) == (2, "")
    assert "calibration.json` cannot be written" in err.splitlines()[-1]


def without_iterations(arguments: list[object]) -> list[object]:
    place = arguments.index("--num_iterations")
    return arguments[:place] + arguments[place + 2 :]


def test_a_calibrated_plan_says_how_long_to_train(run: Run, work: Path, tmp_path: Path) -> None:
    """8 iterations a merge at 1e-3, of 3 merges; what is trained otherwise was not calibrated."""
    content = json.loads((work / "plan" / "plan.json").read_text())
    model = GammaRates(0.5, 1.0, 0.5, 8, 1e-3, 8, 1e-3)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({**content, "students": [[[[4, 3], 2], 1]]}))
    file = replace(PlanFile.read(plan), training=model)
    file.write(plan)
    plain = ("--linear_part", "train", "--target_reuse", 1)
    dry = without_iterations(distill(work, "--dry_run", plan=plan, output="calibrated"))
    _, _, err = run(*dry, "--learning_rate", 1e-3)
    assert "not for 8 (targets used again, linear parts solved) at 0.001\n" in err
    dry += plain
    rate = ("--learning_rate", 1e-3)
    start = "the plan was calibrated for 8 iterations a merge at learning rate 0.001; what it "
    for more, total, used in (
        (rate, 24, ""),
        ((), 24, "8 at 0.0003"),
        ((*rate, "--num_iterations", 4), 12, "4 at 0.001"),
        ((*rate, "--num_iterations", "8,4,5"), 17, "4 to 8 at 0.001"),
    ):
        status, out, err = run(*dry, *more)
        assert status == 0
        assert f" iterations: {total}\n" in out
        assert ("calibrated" in err) == bool(used)
        assert not used or f"opmerge: {start}predicts is not for {used}\n" in err
    status, _, err = run(*dry, *rate, "--merge_seconds", 0.001)
    assert f"opmerge: {start}predicts is not for 0.001 s at 0.001\n" in err
    replace(file, iterations=(3, 2, 2)).write(plan)  # said of this plan, so it goes first
    status, out, err = run(*dry, *rate)
    assert " iterations: 7\n" in out
    assert "not for 2 to 3 at 0.001\n" in err


def test_a_plan_keeps_the_iterations_of_its_merges(run: Run, work: Path) -> None:
    """Progressive: 4 → 2 and 2 → 0 train one network in a round, then 4 → 0 another."""
    weights = Path("student", "unet", "diffusion_pytorch_model.safetensors")
    shared = ("--sharing", "round")
    first = distill(work, "--num_iterations", "3,2", *shared, plan="progressive", output="rounds")
    assert run(*first, "--steps", STEPS)[0] == 0
    path = work / "rounds" / "plan.json"
    file = PlanFile.read(path)
    assert [merge.boundaries for merge in file.plan.merges] == [(4, 3, 2), (2, 1, 0), (4, 2, 0)]
    assert file.iterations == (3, 3, 2)
    again = without_iterations(distill(work, *shared, plan=path, output="rounds-again"))
    assert run(*again)[0] == 0
    assert (work / "rounds-again" / weights).read_bytes() == (
        work / "rounds" / weights
    ).read_bytes()
    alone = without_iterations(distill(work, plan=path, output="merges"))
    assert run(*alone)[0] == 0
    config = json.loads((work / "merges" / "config.json").read_text())
    assert config["options"]["num_iterations"] == [3, 3, 2]
    path = work / "unequal.json"
    replace(file, iterations=(3, 2, 2)).write(path)
    unequal = without_iterations(distill(work, *shared, plan=path, output="unequal"))
    status, out, err = run(*unequal)
    assert (status, out) == (2, "")
    assert err == (
        "opmerge: `plan` must have equal `iterations` for merges that train one network, got 2 to "
        "3 for 4 → 2 and 1 more; pass --num_iterations 400, or --sharing merge\n"
    )
    timed = without_iterations(
        distill(work, *shared, "--merge_seconds", 0.001, plan=path, output="timed")
    )
    assert run(*timed)[0] == 0
    assert PlanFile.read(work / "timed" / "plan.json").iterations is None


def test_a_plan_for_a_budget_is_trained_as_it_says(run: Run, work: Path) -> None:
    """The iterations are the plan's and cost the budget; others are no longer of that budget."""
    teacher, folder = work / "trained" / "teacher", work / "budget"
    planned = ("plan", "digits", "--schedule", teacher, "--steps", STEPS, "--student_steps", 2)
    cheap = ("--budget", "9000", "--train_batch_size", 16, "--output_dir", folder)
    assert run(*planned, *cheap)[0] == 0
    file = PlanFile.read(folder / "plan.json")
    assert file.budget == 9000
    again = without_iterations(distill(work, plan=folder / "plan.json", output="budgeted"))
    status, out, _ = run(*again, "--dry_run")
    assert status == 0
    children = [merge.num_children for merge in file.plan.merges]
    cost = IterationCost(16, "auto", is_linear_solved=True, fewest=33)
    spent = cost.total(children, file.iterations)
    assert f" network evaluations: {spent:,.0f} " in out
    assert spent <= 9000
    assert run(*again)[0] == 0
    used = PlanFile.read(work / "budgeted" / "plan.json")
    assert (used.iterations, used.budget) == (file.iterations, 9000)
    config = json.loads((work / "budgeted" / "config.json").read_text())["options"]
    assert config["num_iterations"] in (list(file.iterations), file.iterations[0])
    other = distill(work, plan=folder / "plan.json", output="otherwise")
    assert run(*other)[0] == 0
    assert PlanFile.read(work / "otherwise" / "plan.json").budget is None


def test_a_plan_without_merges_has_no_iterations(run: Run, work: Path) -> None:
    """T students of one step each; nothing is trained, by its own file as well."""
    steps = distill(work, "--student_steps", STEPS, plan="[4,3,2,1]", output="unmerged")
    assert run(*steps)[0] == 0
    path = work / "unmerged" / "plan.json"
    assert PlanFile.read(path).iterations == ()
    assert run(*without_iterations(distill(work, plan=path, output="unmerged-again")))[0] == 0
