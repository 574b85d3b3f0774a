"""What can be refused by looking at names and short files is, before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import contextlib, io, json, sys
from opmerge.cli import main
for words in json.loads(sys.stdin.read()):
    lines = io.StringIO()
    with contextlib.redirect_stderr(lines):
        status = main(words)
    print(json.dumps([status, lines.getvalue(), "torch" in sys.modules]))
"""
DISTILL = ("distill", "digits", "--output_dir", "out")
SPEND = ("run", "digits", "--steps", "8", "--output_dir", "out")
CASES = [
    (("train-teacher", "digit", "--output_dir", "out"), "did you mean digits?"),
    ((*DISTILL, "--teacher", "nowhere", "--plan", "boot", "--steps", "8"), "`teacher` must be"),
    ((*DISTILL, "--teacher", "here", "--plan", "nothing.json"), "nothing.json"),
    ((*DISTILL, "--teacher", "here", "--plan", "boot"), "`steps` must be given"),
    ((*DISTILL, "--teacher", "here", "--plan", "[[3,1],2]"), "must continue with step 2"),
    ((*DISTILL, "--teacher", "here", "--plan", "[3,2,1]", "--fuse_lora"), "`fuse_lora`"),
    ((*DISTILL, "--teacher", "here", "--plan", "[3,2,1]", "--budget", "many"), "`budget`"),
    ((*SPEND, "--teacher", "nowhere", "--budget", "1e6"), "`teacher` must be"),
    ((*SPEND, "--teacher", "here", "--budget", "soon"), "`budget`"),
    ((*SPEND, "--teacher", "here", "--budget", "1e6", "--student_steps", "8"), "below 8"),
    ((*SPEND, "--teacher", "here", "--budget", "1e6", "--compare_with", "boat"), "boat"),
    (
        ("calibrate", "nosuch", "--teacher", "here", "--steps", "8", "--output_dir", "out"),
        "nosuch",
    ),
    (("sample", "nowhere", "--output", "a.png"), "`model` must be an existing folder"),
    (("evaluate-student", "nowhere", "--teacher", "here"), "`student` must be an existing folder"),
    (("prepare", "digits", "--teacher", "nowhere", "--output_dir", "out"), "`teacher` must be"),
]


def test_cheap_errors_do_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    asked = json.dumps([words for words, _ in CASES])
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, expected), (status, told, has_torch) in zip(CASES, answers, strict=True):
        assert status == 2, words
        assert told.count("\n") == 1
        assert expected in told, told
        assert not has_torch, words
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
