"""What the documents show works: the README's Python, its names, its links and its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from opmerge.cli import COMMANDS
from opmerge.cli.studies import study_names
from opmerge.planners import PLANNERS
from opmerge.plans import STRATEGIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs" / "how_to.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    w2, gap, _ = capsys.readouterr().out.split(maxsplit=2)
    assert float(w2) > 0
    assert float(gap) < 1e-9


def table_names(heading: str) -> set[str]:
    section = HOW_TO.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([a-z-]+)", section, re.MULTILINE))


def test_the_tables_name_every_strategy_and_every_planner() -> None:
    assert table_names("Strategies") == set(STRATEGIES)
    assert table_names("Planners") == set(PLANNERS)


def test_commands_and_links_exist() -> None:
    for command in re.findall(r"^    opmerge ([a-z-]+)", README, re.MULTILINE):
        assert command in COMMANDS.commands
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_test_that_the_paper_map_names_exists() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    written = "".join(path.read_text(encoding="utf-8") for path in files.values())
    for name in set(re.findall(r"\btest_\w+(?:\.py)?", text)):
        assert name in files or f"def {name}(" in written, name


def test_findings_are_as_the_records_say() -> None:
    """Or else: make findings."""
    program = [sys.executable, str(ROOT / "docs" / "make_findings.py"), "--check"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_paper_map_names_every_study() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    for name in study_names():
        assert f"`{name}`" in text, name
