"""What newcomers are told of the repository is as the repository is."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCE = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")}


def read_yaml(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_layout_is_as_the_code_is() -> None:
    """Or else: python docs/make_layout.py."""
    written = runpy.run_path(str(ROOT / "docs" / "make_layout.py"))["written"]
    assert written(CONTRIBUTING) == CONTRIBUTING


def test_what_the_guide_names_exists() -> None:
    for path in re.findall(r"`((?:tests|docs|src|examples)/[\w/.-]+)`", CONTRIBUTING):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|    )make ([a-z-]+)", CONTRIBUTING):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_what_may_import_torch_is_tested_without_it() -> None:
    """The folders of tests that `make test-core` runs: what the import rules do not answer for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rules = project["tool"]["importlinter"]["contracts"]
    (rule,) = (rule for rule in rules if rule["name"].startswith("No torch in the core"))
    excepted = {line.split(".")[1] for line in rule["ignore_imports"]}
    free = {module.split(".")[1] for module in rule["source_modules"]} - excepted
    told = re.search(r"CORE_TESTS := .*tests/,(.*)\)", (ROOT / "Makefile").read_text("utf-8"))
    assert told is not None
    packages = {init.parent.name for init in (ROOT / "src" / "opmerge").glob("*/__init__.py")}
    mirrored = packages & {path.name for path in (ROOT / "tests").iterdir()}
    assert set(told[1].split()) == mirrored - free


def test_every_registry_has_its_part_of_the_guide() -> None:
    parts = CONTRIBUTING.split("\n## Add ")[1:]
    names = {"strategy", "training model", "planner", "study", "family of networks", "option"}
    assert {re.sub(r"^an? ", "", part.split("\n")[0]) for part in parts} == names
    for part in parts:
        assert re.search(r"\*Guarded by\* `tests/", part), part


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_the_citation_has_what_its_format_asks_for() -> None:
    """The required keys of CFF 1.2.0, and this version."""
    cited = read_yaml("CITATION.cff")
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert all(set(author) & {"name", "family-names"} for author in cited["authors"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == project["version"] == version("opmerge")
    assert cited["license"] == project["license"]


def test_hooks_are_the_tools_of_lint() -> None:
    """pre-commit's required keys; every tool is one that ``make lint`` runs."""
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nlint:", 1)[1].split("\n\n")[0]
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert {"id", "name", "entry", "language"} <= set(hook)
        words = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        assert f"$(BIN)/{words}" in lint


def test_issue_forms_have_what_their_format_asks_for() -> None:
    forms = list((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    for form in forms:
        if form.name != "config.yml":
            read = read_yaml(str(form.relative_to(ROOT)))
            assert {"name", "description", "body"} <= set(read)
            ids = [part["id"] for part in read["body"]]
            assert len(set(ids)) == len(ids)
            assert all(part["attributes"]["label"] for part in read["body"])
    assert len(forms) == 4


def test_changes_stand_under_versions() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", head) for head in heads[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_the_page_of_formats_names_every_format_and_its_version() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"\| `(opmerge\.\w+)` \| (\d+) \|", page))
    found: dict[str, str] = {}
    for text in SOURCE.values():
        together = r'"format": "(opmerge\.\w+)", "version": (\d+)'
        apart = r'_?FORMAT(?:: Final)?(?:, _?VERSION)? = "(opmerge\.\w+)"'
        number = re.search(r"^VERSION(?:: Final)? = (\d+)|FORMAT, _VERSION = .*, (\d+)", text, re.M)
        found |= dict(re.findall(together, text))
        for name in re.findall(apart, text):
            found[name] = next(filter(None, number.groups())) if number else ""
    assert told == found
