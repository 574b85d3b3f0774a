"""What the documents show works: their Python, names, links and commands, and their numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from shown_commands import commands_in, parsed

from opmerge.cli.studies import study_names
from opmerge.planners import PLANNERS
from opmerge.plans import STRATEGIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONCEPTS = ("operators", "plans", "training", "budgets", "networks")
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def python_in(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = python_in(ROOT / "README.md")
    exec(compile(code, "README.md", "exec"), {})
    w2, gap, _ = capsys.readouterr().out.split(maxsplit=2)
    assert float(w2) > 0
    assert float(gap) < 1e-9


@pytest.mark.parametrize("name", ["api/index", "concepts/operators", "concepts/certificates"])
def test_the_python_of_pages_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in python_in(DOCS / f"{name}.md"):
        exec(compile(code, name, "exec"), names)
    assert capsys.readouterr().out


def table_names(page: str, heading: str) -> set[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([a-z-]+)", section, re.MULTILINE))


def test_the_tables_name_every_strategy_and_every_planner() -> None:
    assert table_names("concepts/plans.md", "Strategies") == set(STRATEGIES)
    assert table_names("concepts/certificates.md", "Planners") == set(PLANNERS)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_command_parses(path: Path) -> None:
    """Options exist and their values are of their kind; nothing is run."""
    for words in commands_in(path.read_text(encoding="utf-8")):
        command, parameters = parsed(words)
        assert isinstance(command, click.Command)
        assert parameters, words


def test_a_wrong_command_does_not_parse() -> None:
    (wrong,) = commands_in("    opmerge plan digits --stepz 64\n")
    with pytest.raises(click.UsageError):
        parsed(wrong)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_numbers_of_answers_are_those_of_the_findings() -> None:
    """Of at least three digits, and counts: a new measurement must reach the questions."""
    findings = (DOCS / "findings.md").read_text(encoding="utf-8")
    names = ("questions", "index", *(f"concepts/{name}" for name in CONCEPTS))
    for name in (*names, *(f"how_to/{name}" for name in ("lora", "sdxl", "flux"))):
        page = DOCS / f"{name}.md"
        prose = re.sub(
            r"```.*?```|`[^`]*`|^    .*$", "", page.read_text("utf-8"), flags=re.M | re.S
        )
        for number in re.findall(
            r"(?<!Python ≥ )\b\d+\.\d{2,}\b|\b\d+ of \d+\b|\b\d{3}\.\d\b", prose
        ):
            assert number in findings, (page.name, number)


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
