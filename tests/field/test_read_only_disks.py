"""Disks that cannot be written to or are full, and places that are none: one line, nothing left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
Program = Callable[..., subprocess.CompletedProcess[str]]
Seen = Callable[[str, object, object], None]

APART = ("unshare", "--map-root-user", "--mount")
HAS_MOUNTS = bool(shutil.which("unshare")) and not subprocess.call([*APART, "true"])
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
OPENS = "import sys; from pathlib import Path; from opmerge.files import in_place;"
OPENS += "print((in_place(Path(sys.argv[1])) / 'content').read_text())"


def read_only(disk: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Python with these words, in a room of its own where the folder cannot be written to."""
    command = [*APART, "sh", "-c", READ_ONLY, str(disk), sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not HAS_MOUNTS, reason="no disk can be mounted here")
@pytest.mark.parametrize("place", ["run", "new/run"])
def test_a_run_on_a_read_only_disk_is_refused(tmp_path: Path, seen: Seen, place: str) -> None:
    (tmp_path / "run").mkdir()
    words = ("-m", "opmerge.cli", "plan", "digits", "--steps", 8, "--output_dir")
    done = read_only(tmp_path, *words, tmp_path / place)
    seen(f"plan into {place} on a read-only disk", "exit 2, one line", f"exit {done.returncode}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Read-only file system" in done.stderr


@pytest.mark.skipif(not HAS_MOUNTS, reason="no disk can be mounted here")
@pytest.mark.parametrize("names", [("old", "unfinished"), ("old",)])
def test_between_two_renames_on_a_read_only_disk(
    tmp_path: Path, seen: Seen, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / f".student.{name}").mkdir()
        (tmp_path / f".student.{name}" / "content").write_text(name)
    done = read_only(tmp_path, "-c", OPENS, tmp_path / "student")
    seen("opened between two renames, read-only", names[-1], done.stdout.strip())
    assert done.stdout.strip() == names[-1]


def test_a_study_that_cannot_keep_its_cells_says_so_in_one_line(
    program: Program, tmp_path: Path
) -> None:
    """While two workers are at others."""
    (tmp_path / "cells").write_text("in the way")
    words = ("study", "phase", "--quick", "--num_workers", 2, "--output_dir", tmp_path)
    done = program(*words)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line and "left" not in line]
    assert len(lines) == 1, lines
    assert "resume" in lines[0]


@pytest.mark.parametrize(
    ("asked", "first"),
    [("plan digits --steps 8", "record.json"), ("spectrum eigenvalues:0.5,2", "spectrum.png")],
)
def test_what_has_no_room_leaves_nothing(tmp_path: Path, asked: str, first: str) -> None:
    """A limit on the size of files stands for a full disk: what is written before is below it."""
    command = f"ulimit -f 8; exec {sys.executable} -m opmerge.cli {asked}"
    words = ["sh", "-c", f"{command} --output_dir {tmp_path / 'run'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"{first}` cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_nothing_is_not_the_current_folder(
    run: Run, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a shell's variable that is not set."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run("plan", "digits", "--steps", 8, "--output_dir", "")
    seen('--output_dir ""', "exit 2, nothing written", f"exit {status}")
    assert (status, out) == (2, "")
    assert err == "opmerge: `output_dir` must be a file or folder, got nothing\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [".", "/", ""])
def test_folders_without_a_name_are_folders(run: Run, place: str) -> None:
    status, out, err = run("plan", "digits", "--steps", 8, "--schedule", place)
    assert (status, out) == (2, "")
    assert "scheduler_config.json" in err
