"""Wheel and sdist are built, have valid metadata, and work where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.full


def call(*command: object, cwd: Path = ROOT) -> str:
    """What a program printed; its standard error where it fails."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    for name in ("build", "twine"):
        pytest.importorskip(name)
    call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist")
    wheel, sdist = sorted((tmp_path / "dist").iterdir())
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")
    call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    call(sys.executable, "-m", "venv", tmp_path / "empty")
    python = tmp_path / "empty" / "bin" / "python"
    call(python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", wheel)
    opmerge = python.with_name("opmerge")
    assert call(opmerge, "--version", cwd=tmp_path).startswith("opmerge ")
    call(opmerge, "plan", "digits", "--steps", 16, "--output_dir", tmp_path / "plan", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "plan").iterdir()} >= {"plan.json", "report.html"}
