"""Any options of every command that works with networks: done, or one line and nothing left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler
from fuzzing import answered, fuzz, numbers
from hypothesis import strategies as st
from torch_helpers import scrambled

from opmerge.cli import COMMANDS, main
from opmerge.cli.options import Command
from opmerge.denoisers.models import Jump, Student
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.distillation import save_student

Run = Callable[..., tuple[int, str, str]]

TAUGHT = "SAMPLES --teacher TEACHER --steps 4"
FEW = "--train_batch_size 4 --seed 0"
BASES = {
    "train-teacher": f"SAMPLES --num_iterations 1 --hidden_size 8 --num_layers 1 {FEW}",
    "calibrate": f"{TAUGHT} --num_iterations 2 {FEW}",
    "distill": f"{TAUGHT} --plan [[4,3],2,1] --num_iterations 1 {FEW} --dry_run",
    "run": f"{TAUGHT} --budget 3000 {FEW}",  # which does not pay for the teacher's table
    "sample": "STUDENT --num_samples 2",
    "evaluate-student": "STUDENT --teacher TEACHER --source SAMPLES --num_samples 4",
    "export": "PLAN --to comfyui",
    "prepare": "SAMPLES --teacher TEACHER",
    "study": "--list",
    "vae train": "SAMPLES --num_iterations 1",
    "vae encode": "SAMPLES --vae TEACHER",
    "vae decode": "SAMPLES --vae TEACHER",
}
"""Words that are cheap to obey, but for where the results go."""

OUTPUTS = {"sample": "--output OUT.npy", "evaluate-student": "", "export": "", "study": ""}
OUTPUTS |= {"vae encode": "--output OUT.npy", "vae decode": "--output OUT.npy"}
COSTLY = {"num_iterations", "num_samples", "num_resamples", "budget", "merge_seconds", "steps",
          "num_workers", "checkpointing_steps", "validation_steps", "hidden_size", "num_layers",
          "block_out_channels", "gradient_accumulation_steps", "target_reuse"}  # fmt: skip
"""Options by which a run may take as long as it is told to."""
LEFT_OUT = {"neural", "torch_compile", "backend", "quick", "dry_run"}
refused = st.sampled_from(["", "-1", "0", "nan", "1e400", "x", "1.5", "it", "0h", "-3it", "1", "2"])
paths = st.sampled_from(["no/where", "", ".", "/", "/dev/null", "~nobody", "\N{SNOWMAN}"])
words = st.one_of(numbers, st.text(st.characters(codec="utf-8"), max_size=6), paths)


def command_of(name: str) -> Command:
    command = COMMANDS
    for word in name.split():
        command = command.commands[word]  # type: ignore[assignment]
    assert isinstance(command, Command)
    return command


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command and some of its options, each with any value, whatever it may be."""
    name = draw(st.sampled_from(sorted(BASES)))
    asked: list[str] = []
    known = [each for each in command_of(name).options if each.opts[0].startswith("--")]
    for option in draw(st.lists(st.sampled_from(known), max_size=3, unique_by=id)):
        key = option.opts[0].removeprefix("--")
        if key in LEFT_OUT or key.startswith("output"):
            continue
        asked.append(f"--{key}")
        if not getattr(option, "is_flag", False):
            choices = getattr(option.type, "choices", [])
            values = [refused] if key in COSTLY else [words, refused]
            values += [st.sampled_from(choices)] * 2 if choices else []
            asked.append(draw(st.one_of(values)).replace("\0", ""))
    return name, asked


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the tiny files are that the commands are told of."""
    root = tmp_path_factory.mktemp("places")
    network = scrambled(MLPDenoiser((8, 8), hidden_size=8, num_layers=1))
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    ddim = DDIM.from_scheduler(scheduler, 4)
    student = Student((Jump(ddim.denoiser(network), 4, 0, 0),), ddim, (8, 8))
    np.save(root / "samples.npy", np.random.default_rng(0).uniform(-1, 1, (12, 8, 8)))
    assert not main(
        ["plan", "eigenvalues:0.5,2", "--steps", "4", "--output_dir", str(root / "plan")]
    )
    return {
        "SAMPLES": str(root / "samples.npy"),
        "TEACHER": str(write_teacher_folder(root / "teacher", network, scheduler)),
        "STUDENT": str(save_student(student, root / "student")),
        "PLAN": str(root / "plan" / "plan.json"),
    }


@fuzz(1_000, command=commands())
def test_commands(
    command: tuple[str, list[str]],
    run: Run,
    places: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, asked = command
    room = tmp_path_factory.getbasetemp() / "room_of_fuzz"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    monkeypatch.chdir(room)  # to which a path among the values may lead
    base = f"{name} {BASES[name]} {OUTPUTS.get(name, '--output_dir OUT')}".split()
    result = run(*(places.get(word, word) for word in base), *asked)
    if not answered(result, says_more=True):
        assert files_below(room) == [], result


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
