"""Models and runs without measure: configs, checkpoints and logs that nothing is made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DDIMScheduler
from torch_helpers import edit_json, scrambled

from opmerge.checkpoints import Checkpoints, MetricsLog
from opmerge.denoisers.models import Jump, Student
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation import load_student, save_student
from opmerge.errors import InputError

Seen = Callable[[str, object, object], None]

SHAPE = (8, 8)
DEEP = "[" * 10**6 + "]" * 10**6


@pytest.fixture
def student(tmp_path: Path) -> Path:
    ddim = DDIM.from_scheduler(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), 4)
    network = scrambled(MLPDenoiser(SHAPE, hidden_size=8, num_layers=1))
    one_step = Student((Jump(ddim.denoiser(network), 4, 0, 0),), ddim, SHAPE)
    return save_student(one_step, tmp_path / "student")


def line_of(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_student(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("change", [{"num_layers": 10**9}, {"layers_per_block": 10**9},
                                    {"block_out_channels_of_layers": [8] * 20_000}])  # fmt: skip
def test_a_network_of_a_thousand_million_layers(
    student: Path, change: dict[str, object], seen: Seen
) -> None:
    edit_json(student / "unet" / "config.json", **change)
    line = line_of(student)
    seen(f"config.json: {next(iter(change))} without measure", "one line, at once", line[-60:])
    assert next(iter(change)) in line
    with pytest.raises(InputError, match="num_layers"):
        MLPDenoiser(SHAPE, num_layers=10**9)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
@pytest.mark.parametrize("kind", ["deep", "/dev/zero", "pipe"])
def test_a_config_without_an_end(student: Path, name: str, kind: str, seen: Seen) -> None:
    path = student / name
    path.unlink()
    if kind == "deep":
        path.write_text(DEEP)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    line = line_of(student)
    seen(f"{name}: {kind}", "one line, at once", line[-60:])


def test_a_student_between_two_renames_is_opened(student: Path, seen: Seen) -> None:
    student.rename(student.with_name(".student.unfinished"))
    student.with_name(".student.old").mkdir()
    steps = len(load_student(student).jumps)
    seen("a student between two renames", "opened", f"a student of {steps} step")
    assert steps == 1


def test_checkpoints_and_logs_without_measure(tmp_path: Path, seen: Seen) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    told: list[str] = []
    for text in (DEEP, json.dumps({"format": 1}).replace("1", "1e400")):
        (folder / "checkpoint.json").write_text(text)
        checkpoints = Checkpoints(tmp_path, "identity", 2, told.append)
        with pytest.raises(InputError, match="torn"):
            checkpoints.find("latest")
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": ' + DEEP + '}\n{"step": 1e400}\n')
    MetricsLog(log, 10)
    seen("checkpoints and logs a million deep", "refused, dropped", log.read_text().strip())
    assert log.read_text() == '{"step": 1}\n'
