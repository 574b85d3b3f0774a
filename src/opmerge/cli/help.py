"""How commands explain themselves: their parameters in panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


class Explained:
    """What help shows of a parameter: its ``kind`` of value, and its default in ``words``."""

    description: str
    panel: str
    kind: str
    words: str


def help_text(
    usage: str,
    description: str | None,
    parameters: Sequence[click.Parameter],
    commands: Mapping[str, click.Command] | None = None,
) -> str:
    """Usage and description, then a panel for each heading, in the order of the parameters."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    panels: dict[str, Table] = {"Arguments": _table(), "Options": _table()}
    for parameter in parameters:
        panel = parameter.panel if isinstance(parameter, Explained) else "Options"
        names, kind, text, default = cells(parameter)
        words = Text.assemble(text, (f" {default}".rstrip(), "dim"))
        row = Text(names, "bold cyan"), Text(kind, "bold yellow"), words
        panels.setdefault(panel, _table()).add_row(*row)
    if commands:
        panels["Commands"] = _table()
        for name, command in commands.items():
            panels["Commands"].add_row(Text(name, "bold cyan"), summary(command))
    with console.capture() as captured:
        console.print(Padding(Text(usage, "bold"), (1, 1)))
        console.print(Padding(Text(description or ""), (0, 1, 1, 1)))
        for title, table in panels.items():
            if table.rows:
                console.print(Panel(table, title=title, title_align="left", border_style="dim"))
    return captured.get()


def _table() -> Table:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    return table


def summary(command: click.Command) -> str:
    """The first paragraph of a command's help, in one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def cells(parameter: click.Parameter) -> tuple[str, str, str, str]:
    """Its name, its kind of value, what it is for, and its default."""
    names = " ".join(sorted(parameter.opts, key=len, reverse=True))
    if not isinstance(parameter, Explained):
        return names, "<bool>", getattr(parameter, "help", None) or "", ""
    if isinstance(parameter, click.Argument):
        names = (parameter.metavar or "").strip("[]")
    default = "[required]" if parameter.required else f"[default: {parameter.words}]"
    is_told = parameter.required or parameter.words
    return names.split()[0], parameter.kind, parameter.description, default if is_told else ""
