"""Every help shows commands that work, and the tab key completes what may stand in one."""

from __future__ import annotations

import re
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
from click.shell_completion import ShellComplete
from shown_commands import commands_in, every, parsed

from opmerge.cli import COMMANDS, COMPLETE
from opmerge.cli.options import Command
from opmerge.cli.training import _SHORT

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(("name", "command"), list(every()), ids=[name for name, _ in every()])
def test_examples_are_of_their_command_and_parse(name: str, command: Command) -> None:
    lines = "".join(f"  {line}\n" for line in (command.epilog or "").splitlines())
    examples = list(commands_in(lines))
    assert examples
    for words in examples:
        found, parameters = parsed(words)
        assert found is command, name
        assert parameters


def test_help_shows_the_examples_as_they_can_be_copied(run: Run) -> None:
    status, text, _ = run("calibrate", "--help")
    assert status == 0
    shown = text.split("Examples")[1]
    (words,) = commands_in(shown)
    assert words[:2] == ["calibrate", "digits"]
    assert not re.search("[│╭╰]", shown)


def test_what_makes_a_training_short_is_in_the_usual_help() -> None:
    told = {each.opts[0]: each for each in dict(every())["train-teacher"].options}
    names = _SHORT.split()[::2]
    assert len(names) == 3
    assert not [name for name in names if told[name].rare]


def test_an_option_takes_the_same_kind_of_value_in_every_command() -> None:
    """Two widen it: several K of a frontier, iterations a merge; two want a file alone."""
    kinds: dict[str, set[str]] = {}
    for _, command in every():
        for option in command.options:
            kinds.setdefault(option.opts[0], set()).add(option.cells[1])
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {
        "--student_steps": {"<int>", "<str>"},
        "--num_iterations": {"<int>", "<str>"},
        "--plan": {"<path>", "FILE|LISTS|NAME"},
        "--prompts": {"FILE", "FILE|DIR"},
    }


def completed(*words: str) -> list[str]:
    *before, last = words
    found = ShellComplete(COMMANDS, {}, "opmerge", COMPLETE).get_completions(before, last)
    return [each.value if each.type == "plain" else each.type for each in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tra",), ["train-teacher"]),
        (("vae", "de"), ["decode"]),
        (("plan", "--merge_r"), ["--merge_rule"]),
        (("plan", "digits", "--merge_rule", "op"), ["operator-copy"]),
        (("export", "plan.json", "--to", ""), ["fastgen", "comfyui"]),
        (("distill", "digits", "--teacher", "ru"), ["file"]),
        (("plan", "my_da"), ["file"]),
        (("plan", "digits", "--steps", ""), []),
    ],
    ids=str,
)
def test_words_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_the_program_answers_the_shell(program: Callable[..., CompletedProcess[str]]) -> None:
    asked = {COMPLETE: "bash_complete", "COMP_WORDS": "opmerge evaluate", "COMP_CWORD": "1"}
    done = program(env=asked)
    assert done.returncode == 0
    assert done.stdout.split() == ["plain,evaluate", "plain,evaluate-student"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_program_writes_the_scripts_of_shells(
    shell: str, program: Callable[..., CompletedProcess[str]]
) -> None:
    done = program(env={COMPLETE: f"{shell}_source"})
    assert done.returncode == 0
    assert f"{COMPLETE}={shell}_complete" in done.stdout
