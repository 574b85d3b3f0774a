"""A study of another package, run through the command line as if it were installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "own_study"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process for which the package is installed: on the path, with its entry points."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"own_study-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(entries))
    (site / "own_study").symlink_to(PACKAGE / "own_study")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}


def opmerge(environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-m", "opmerge.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_study_of_another_package_is_listed(environment: dict[str, str]) -> None:
    lines = opmerge(environment, "study", "--list").splitlines()
    question = "own-study: Does the noise schedule decide whether BOOT or vanilla errs less?"
    assert question in lines
    assert any(line.startswith("phase: ") for line in lines)


def test_it_writes_a_record_a_page_and_a_figure(
    environment: dict[str, str], tmp_path: Path
) -> None:
    out = opmerge(
        environment,
        *("study", "own-study", "--quick", "--set", 'schedules=["cosine","linear"]'),
        *("--num_workers", 2, "--output_dir", tmp_path),
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["study"], record["settings"]["num_steps"]) == ("own-study", 32)
    assert len(record["tables"]["errors"]) == 24
    page = (tmp_path / "report.html").read_text()
    assert out.splitlines()[0] in page
    assert 'id="boot-below-one"' in page
    assert (tmp_path / "figures" / "boot-over-vanilla.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "report.html").unlink()
    opmerge(environment, "report", tmp_path)
    assert (tmp_path / "report.html").read_text() == page
