"""A student whose saving is killed at any of its steps, and students that are moved about."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch_helpers import scrambled

from opmerge.denoisers.models import Jump, Student
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation import initial_noise, load_student, save_student
from opmerge.errors import InputError
from opmerge.files import sweep

pytestmark = pytest.mark.usefixtures("one_thread")

Seen = Callable[[str, object, object], None]
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")
"""Events of the interpreter that change a folder; so does opening a file to write."""


def changes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in CHANGES


def killed_after(number: int, save: Callable[[], object]) -> bool:
    """Save in a process that is killed before its change of that number; whether it came to it."""
    process = os.fork()
    if not process:
        count = 0

        def look(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if changes(event, arguments):
                count += 1
                if count > number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)  # for good, in this process alone
        save()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def samples(student: Student) -> torch.Tensor:
    return student.sample(initial_noise((8, 8), 2, seed=0))


def student_of(seed: int) -> Student:
    network = scrambled(MLPDenoiser((8, 8), hidden_size=16, num_layers=1), seed)
    ddim = DDIM.from_scheduler(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), 4)
    return Student((Jump(ddim.denoiser(network), 4, 0, 0),), ddim, (8, 8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_at_any_step_leaves_a_whole_student_or_none(
    tmp_path: Path, is_there: bool, seen: Seen
) -> None:
    old, new = student_of(1), student_of(2)
    before, after = samples(old), samples(new)
    assert not torch.equal(before, after)
    number, found = 0, set()
    while True:
        run = tmp_path / str(number)
        run.mkdir()
        if is_there:
            save_student(old, run / "student")
        is_killed = killed_after(number, lambda: save_student(new, run / "student"))  # noqa: B023
        try:
            got = samples(load_student(run / "student"))
        except InputError:
            assert not is_there
            found.add("none")
        else:
            assert torch.equal(got, before if is_there else after) or torch.equal(got, after)
            found.add("old" if torch.equal(got, before) else "new")
        sweep(run)  # as the command that goes on does
        save_student(new, run / "student")
        assert torch.equal(samples(load_student(run / "student")), after)
        assert [path.name for path in run.iterdir()] == ["student"]
        if not is_killed:
            break
        number += 1
    seen(f"{number} kills while a student is saved", "a whole one or none", sorted(found))
    assert number >= 5
    assert found == ({"old", "new"} if is_there else {"none", "new"})


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    save_student(student_of(1), tmp_path / "run" / "student")
    return tmp_path / "run" / "student"


def test_students_are_moved_copied_renamed_and_linked(moved: Path, seen: Seen) -> None:
    expected = samples(load_student(moved))
    other = moved.parent.parent / "elsewhere" / "été 4 steps.v2"
    other.parent.mkdir()
    shutil.copytree(moved, other)
    shutil.move(moved.parent, moved.parent.with_name("renamed"))
    link = other.parent / "link"
    link.symlink_to(other, target_is_directory=True)
    places = (other, link, moved.parent.with_name("renamed") / "student")
    got = [torch.equal(samples(load_student(place)), expected) for place in places]
    seen("a student copied, linked, moved", "the same samples", got)
    assert all(got)
    with pytest.raises(InputError, match="must be the folder of a student"):
        load_student(moved)
