"""What is shown of long work: how much is done, and how much time is left."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opmerge.cli import progress
from opmerge.cli.progress import resumable, say


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun says to it."""
    said = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)


def lines_of(capsys: Any) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_time_left_is_that_of_the_work_left(clock: Clock, capsys: Any) -> None:
    """A quarter in 30 s: three times as much is left. Lines are 20 s apart at least."""
    with progress.progress_bar("work", 200) as report:
        for seconds, done in ((10, 20), (20, 50), (10, 60), (20, 100)):
            clock.now += seconds
            report(done, "this")
    assert lines_of(capsys) == [
        "work: this: 25%, about 1:30 left",
        "work: this: 50%, about 1:00 left",
    ]


def test_work_of_an_earlier_run_says_nothing_of_the_speed(clock: Clock, capsys: Any) -> None:
    """Begun at 900 of 1,000, 10 more in 30 s: 90 are left, so 4.5 minutes, not 3 s."""
    with progress.progress_bar("work", 1000, begun_at=900) as report:
        report(900)
        clock.now += 30
        report(910)
    assert lines_of(capsys) == ["work: 91%, about 4:30 left"]


def test_work_of_unknown_size_is_counted(clock: Clock, capsys: Any) -> None:
    with progress.progress_bar("files") as report:
        clock.now += 65
        report(12_345)
    assert lines_of(capsys) == ["files: 12,345 in 1:05"]


def test_of_several_processes_the_first_one_shows_progress(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    second_of_two(monkeypatch)
    with progress.progress_bar("work", 1) as report:
        clock.now += 100
        report(1)
    assert lines_of(capsys) == []


@pytest.mark.parametrize(("total", "shown"), [(400, "25%"), (None, "100")])
def test_a_terminal_shows_a_bar_or_a_count(
    total: float | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.progress_bar("work", total) as report:
        report(100)
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "work" in text
    assert shown in text


def test_a_log_has_a_line_when_each_piece_of_work_begins(clock: Clock, capsys: Any) -> None:
    with progress.bars_in_turn(are_named=True) as report:
        for what, done in (("first", 0), ("first", 1), ("second", 0), ("second", 1)):
            report(what, done, 1)
    assert lines_of(capsys) == ["opmerge: first", "opmerge: second"]


def test_files_are_counted_while_they_are_looked_through(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an autoencoder is trained on a folder, each of its images is opened once."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    settings = ("--image_size", 16, "--num_latents", 4, "--encoder", "pca")
    status, _, err = run("vae", "train", tmp_path, *settings, "--output_dir", tmp_path / "run")
    titles = [line.split(": ")[0] for line in err.splitlines()]
    expected = [f"looking through {tmp_path}", "opmerge", "reading", "fitting"]
    assert (status, titles) == (0, expected)
    assert f"opmerge: {tmp_path.name}: 20 images of 3 x 16 x 16\n" in err


def test_of_several_processes_the_first_one_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    second_of_two(monkeypatch)
    say("twice")
    assert lines_of(capsys) == []
    monkeypatch.setenv("RANK", "0")
    say("once")
    assert lines_of(capsys) == ["opmerge: once"]


def test_ctrl_c_promises_what_is_there(tmp_path: Path, capsys: Any) -> None:
    def interrupted() -> list[str]:
        with pytest.raises(KeyboardInterrupt), resumable("--resume", tmp_path):
            raise KeyboardInterrupt
        return lines_of(capsys)

    assert interrupted() == []
    (tmp_path / "checkpoint-500").mkdir()
    assert interrupted() == ["opmerge: what is finished is kept; --resume goes on from there"]
