"""Commands made from settings: one line for an option, the same on the line, in help, in files."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from shown_commands import every

from opmerge.cli import COMMANDS, main, runs
from opmerge.cli.options import Command, Option, as_option
from opmerge.cli.reference import reference
from opmerge.cli.studies import _as_setting
from opmerge.planners import PLANNERS
from opmerge.plans import STRATEGIES
from opmerge.settings.base import Settings, argument, option
from opmerge.settings.types import Count

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]


class Inner(Settings):
    """Settings inside others, whose defaults these may set."""

    panel = "Within"

    rate: float = option(0.5, "A rate.")
    seed: int = option(0, "A seed.")


class Example(Settings):
    """A field of every kind."""

    source: str = argument("SOURCE", "What is read.")
    added: int = option(7, "The option that was added.")
    counts: Count | tuple[Count, ...] = option(4, "One or several.", shown="the usual")
    names: tuple[str, ...] | None = option(None, "Names.")
    way: Literal["one-way", "other"] = option("one-way", "one-way or other.", name="by")
    place: Path | None = option(None, "Where.", metavar="DIR")
    exact: bool = option(False, "Whether.")
    hidden: int = option(0, "Rarely needed.", rare=True)
    inner: Inner = option(Inner(rate=0.25), "What is inside.")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """What the command `try` was asked for."""
    found: list[Example] = []

    def attempt(example: Example) -> None:
        """Try it."""
        found.append(example)

    attempt.__annotations__ = {"example": Example, "return": None}
    monkeypatch.setitem(COMMANDS.commands, "try", Command("try", attempt))
    return found


def test_an_option_is_a_line_and_everywhere(asked: list[Example], run: Run, tmp_path: Path) -> None:
    """On the command line with both spellings, in help, in Python and in config.json."""
    pytest.importorskip("diffusers")
    assert main(["try", "x", "--added", "8"]) == 0
    assert main(["try", "--added=9", "x"]) == 0
    assert [each.added for each in asked] == [8, 9]
    assert Example(source="x", added=9) == asked[-1]
    _, out, _ = run("try", "--help")
    line = next(line for line in out.splitlines() if "--added" in line)
    assert line.strip("│ ").split(maxsplit=2) == [
        *("--added", "<int>", "The option that was added. [default: 7]")
    ]
    runs.write_config(tmp_path, "try", asked[-1])
    assert json.loads((tmp_path / "config.json").read_text())["options"]["added"] == 9


def test_every_kind_of_value_is_read(asked: list[Example]) -> None:
    words = "try x --counts 4,5 --names a --names b --by one_way --place ~/x --exact --seed 3"
    assert main(words.split()) == 0
    assert main(["try", "x", "--counts", "6"]) == 0
    full, other = asked
    assert (full.counts, other.counts) == ((4, 5), 6)
    assert (full.names, other.names) == (("a", "b"), None)
    assert (full.way, full.exact, full.place) == ("one-way", True, Path.home() / "x")
    assert full.inner == Inner(rate=0.25, seed=3)  # what is not given is the command's default
    assert full.model_fields_set == {
        *("source", "counts", "names", "way", "place", "exact", "inner")
    }
    assert other.model_fields_set == {"source", "counts"}


def test_help_tells_defaults_kinds_and_panels(asked: list[Example], run: Run) -> None:
    _, out, _ = run("try", "-h")
    text = " ".join(out.replace("│", " ").split())
    for words in (
        "Usage: opmerge try [OPTIONS] SOURCE Try it.",
        "─ Within ─",
        "--rate <float> A rate. [default: 0.25] --seed <int> A seed. [default: 0]",
        "--counts <str> One or several. [default: (the usual)]",
        "--names <list[str]> Names. --by <str> one-way or other. [default: one-way]",
        "--place DIR Where. --exact Whether.",
        "SOURCE <str> What is read. [required]",
    ):
        assert words in text, (words, text)


def test_rare_options_are_explained_with_all_alone(asked: list[Example], run: Run) -> None:
    for words, is_shown in (("--help", False), ("--help --all", True), ("--all -h", True)):
        status, out, _ = run("try", *words.split())
        assert status == 0
        assert ("--hidden" in out) is is_shown
        assert ("Also the 1 options" in out) is not is_shown
    assert main(["try", "x", "--hidden", "3"]) == 0
    assert [each.hidden for each in asked] == [3]
    status, _, err = run("try", "x", "--all")
    assert (status, err.count("\n")) == (2, 1)


def test_the_usual_help_of_every_command_fits_a_page_of_80_columns(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in every():
        _, out, _ = run(*name.split(), "--help")
        assert max(map(len, out.split("Examples")[0].splitlines())) <= 80, name
        hidden = [each for each in command.options if each.rare]
        assert not [each for each in hidden if re.search(rf"│ {each.opts[0]}\b", out)], name
        assert not [each for each in hidden if each.required], name


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("try", "Missing argument 'SOURCE'; see opmerge --help"),
        ("try x --added many", "Invalid value for '--added': 'many' is not a valid integer; see "),
        ("try x --counts a,b", "`counts` must be whole numbers, separated by commas, got a,b"),
        ("try x --counts 0", "`counts` must be >= 1, got 0"),
        ("try x --by none", "`way` must be one of one-way, other, got none"),
        ("try x --exact=1", "Option '--exact' does not take a value; see opmerge --help"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    asked: list[Example], run: Run, words: str, line: str
) -> None:
    status, out, err = run(*words.split())
    assert (status, out, err.count("\n"), asked) == (2, "", 1, [])
    assert err.startswith(f"opmerge: {line}")


# The options that there are


@pytest.mark.parametrize("name", [name for name, _ in every()])
def test_help_names_every_choice(name: str) -> None:
    """Of all that is one of a few; names are not used twice."""
    command = dict(every())[name]
    names = [each.opts[0] for each in command.options]
    assert len(set(names)) == len(names)
    for each in command.options:
        choices = getattr(each.type, "choices", ())
        if choices and each.description != "As of the run to come.":
            assert all(re.search(rf"\b{choice}\b", each.description) for choice in choices)
    told = {each.name: each.description for each in command.options if isinstance(each, Option)}
    assert all(planner in told.get("planner", planner) for planner in PLANNERS)
    assert all(strategy in told.get("strategy", strategy) for strategy in STRATEGIES)


def test_the_page_of_all_options_is_current() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page.endswith("\n".join([*reference(COMMANDS), ""])), "python -m opmerge.cli.reference"


# Arguments of Python, said as options


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_steps", "64", "--steps 64"),
        ("planner", '"auto"', "--planner auto"),
        ("grey", "True", "--grey"),
        ("image_shape", "(3, 64, 64)", "--image_shape 3,64,64"),
        ("as_eigenvalues", "True", "--as eigenvalues"),
        ("folder", None, "--output_dir"),
        ("basis", None, None),
    ],
)
def test_arguments_are_said_as_options(name: str, value: str | None, told: str | None) -> None:
    assert as_option(name, value) == told


def test_arguments_are_said_as_settings_of_a_study() -> None:
    words = _as_setting({"source_options": {"split": None, "grey": False}, "steps": 4})
    assert words("split", '"all"') == "--set source_options.split=all"
    assert words("grey", "True") == "--set source_options.grey=true"
    assert (words("steps", None), words("basis", None)) == ("--set steps", None)


def remedies() -> Iterator[tuple[str, str]]:
    """What the library says to do, with 0 for numbers that it fills in."""
    for path in sorted((ROOT / "src" / "opmerge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "InputError":
                words = [*node.args[3:], *(k.value for k in node.keywords if k.arg == "remedy")]
                for word in words:
                    parts: Any = word.values if isinstance(word, ast.JoinedStr) else [word]
                    yield path.parent.name, "".join(str(getattr(p, "value", 0)) for p in parts)


def test_remedies_name_arguments_of_python_which_are_options() -> None:
    found = list(remedies())
    assert len(found) > 30
    for home, remedy in found:
        assert home == "cli" or "--" not in remedy, remedy
        for name, value in re.findall(r"`(\w+)(?:=([^`]*))?`", remedy):
            assert as_option(name, value or None), remedy
