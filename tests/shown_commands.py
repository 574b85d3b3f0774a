"""Commands as documents and helps show them, and what the command line reads in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click

from opmerge.cli import COMMANDS
from opmerge.cli.options import Command, Commands


def every(commands: Commands = COMMANDS, path: str = "") -> Iterator[tuple[str, Command]]:
    """Every command by its whole name, such as ``vae train``."""
    for name, command in commands.commands.items():
        if isinstance(command, Commands):
            yield from every(command, f"{path}{name} ")
        elif isinstance(command, Command):
            yield f"{path}{name}", command


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after ``opmerge`` of every shown line that is whole (without …)."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^ {2,}(?:time )?opmerge (.+)$", joined, re.MULTILINE):
        words = shlex.split(line, comments=True)
        if "…" not in words:
            yield words


def parsed(words: list[str]) -> tuple[click.Command, dict[str, Any]]:
    """The command that is meant, and its parameters; ``click.UsageError`` if it is not one."""
    command: click.Command = COMMANDS
    while isinstance(command, Commands):
        name, *words = words
        if name not in command.commands:
            raise click.UsageError(f"no command {name}")
        command = command.commands[name]
    return command, command.make_context(str(command.name), list(words)).params
