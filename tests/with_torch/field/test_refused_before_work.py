"""What no training could end well with is refused before the first of its work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DDIMScheduler
from torch_helpers import scrambled

from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import write_teacher_folder

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    network = scrambled(MLPDenoiser((8, 8), hidden_size=8, num_layers=1))
    return write_teacher_folder(tmp_path / "teacher", network, DDIMScheduler(clip_sample=False))


@pytest.mark.parametrize("words", ["calibrate", "distill --plan boot", "run --budget 100000"])
@pytest.mark.parametrize(
    ("asked", "name", "line"),
    [
        (["--gradient_checkpointing"], "out", "`gradient_checkpointing` must be left out"),
        (["--use_8bit_adam"], "out", "`use_8bit_adam` needs the package bitsandbytes"),
        ([], os.fsdecode(b"out\x80"), "`output_dir` must be named in UTF-8"),
    ],
)
def test_before_the_teacher_is_measured(
    teacher: Path,
    run: Run,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    asked: list[str],
    name: str,
    line: str,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    command, *more = words.split()
    out = teacher.parent / name
    given = ("digits", "--teacher", teacher, "--steps", 4, *more, *asked, "--output_dir", out)
    status, told, err = run(command, *given)
    seen(f"{command}: {line}", "exit 2, nothing done", f"exit {status}")
    assert (status, told) == (2, ""), err
    assert line in err
    assert [path.name for path in teacher.parent.iterdir()] == ["teacher"]
