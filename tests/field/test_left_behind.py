"""Runs that were ended from outside leave no workers, no half of anything, and nothing for good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from opmerge.files import in_place, remove_folder, sweep

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

SCRIPT = Path(sys.executable).with_name("opmerge")
STUDY = ("study", "phase", "--quick", "--num_workers", "2", "--output_dir")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "content").write_text(content)
    return path


def test_between_two_renames_the_new_one_takes_its_place(tmp_path: Path, seen: Seen) -> None:
    student = tmp_path / "student"
    folder(tmp_path / ".student.old", "old")
    folder(tmp_path / ".student.unfinished", "new")
    content = (in_place(student) / "content").read_text()
    seen("opened between two renames", "the new student", f"the {content} student")
    assert content == "new"
    shutil.rmtree(student)
    assert (in_place(student) / "content").read_text() == "old"  # nothing was to replace it
    shutil.rmtree(student)
    folder(tmp_path / ".student.unfinished", "half")
    assert not in_place(student).exists()  # a first one that was not finished is none


def test_what_was_left_is_swept_and_nothing_else(run: Run, tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "cells").mkdir()
    ours = [".metrics.jsonl.0123abcd.unfinished", "cells/.cell.json.0123abcd.unfinished"]
    for name in ours:
        (tmp_path / name).write_text("half")
    for name in (".checkpoint-8.unfinished", ".checkpoint-6.old", ".student.old"):
        folder(tmp_path / name, "left")
    folder(tmp_path / "checkpoint-6", "whole")
    yours = [".bashrc.old", ".notes", "cells/.hidden", "draft.unfinished"]
    for name in yours:
        (tmp_path / name).write_text("mine")
    status, _, _ = run("plan", "digits", "--steps", 8, "--output_dir", tmp_path)
    assert status == 0
    hidden = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    left = sorted(name for name in hidden if name in ours or name.endswith((".unfinished", ".old")))
    seen("what a killed run left", "swept by the next one", f"left: {left}")
    assert left == [".bashrc.old", "draft.unfinished"]
    assert set(yours) <= hidden
    assert (tmp_path / "checkpoint-6" / "content").read_text() == "whole"
    assert (tmp_path / "student" / "content").read_text() == "left"  # it was all there was


def test_no_half_of_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "checkpoint-4", "whole")

    def stops(place: Path, ignore_errors: bool = False) -> None:
        assert not path.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stops)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(path)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not SCRIPT.exists(), reason="the program is not installed")
def test_workers_do_not_import_from_the_current_folder(tmp_path: Path, seen: Seen) -> None:
    marker = tmp_path / "imported"
    code = f"open({str(marker)!r}, 'w').close(); raise SystemExit(7)\n"
    for module in ("random", "joblib"):
        (tmp_path / f"{module}.py").write_text(code)
    small = ("--set", "steps=[8]", "--set", "denoiser_steps=[8]", "--set", "num_eigenvalues=10")
    words = [str(SCRIPT), *STUDY, str(tmp_path / "run"), *small]
    done = subprocess.run(
        words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    seen(
        "study beside a random.py and a joblib.py",
        "exit 0, not imported",
        f"exit {done.returncode}",
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals here")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_end_with_the_program(number: int, tmp_path: Path, seen: Seen) -> None:
    words = [sys.executable, "-m", "opmerge.cli", *STUDY, str(tmp_path / "run")]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=ENVIRONMENT, text=True, **pipes) as process:
        parent, workers = psutil.Process(process.pid), []
        while process.poll() is None and len(workers) < 3:  # two, and loky's tracker
            workers = parent.children(recursive=True)
            time.sleep(0.01)
        assert process.poll() is None, "the study ended before its workers were seen"
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=60)
    seen(f"study under {signal.Signals(number).name}", "no worker left", f"left: {len(alive)}")
    assert "Traceback" not in err
    assert process.returncode == 130
    assert alive == []
