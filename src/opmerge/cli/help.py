"""How a command explains itself: its parameters in panels, or the commands that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from opmerge.cli.options import Argument, Option

__all__ = ["help_text"]


def help_text(
    usage: str,
    description: str | None,
    parameters: Sequence[click.Parameter],
    commands: Mapping[str, click.Command] | None = None,
) -> str:
    """Usage and description, then a panel for each heading, in the order of the parameters."""
    console = Console()
    panels: dict[str, Table] = {"Arguments": _table(), "Options": _table()}
    for parameter in parameters:
        panel = parameter.panel if isinstance(parameter, Option | Argument) else "Options"
        panels.setdefault(panel, _table()).add_row(*_row(parameter))
    if commands:
        panels["Commands"] = _table()
        for name, command in commands.items():
            panels["Commands"].add_row(
                Text(name, "bold cyan"), (command.help or "").split("\n\n")[0]
            )
    with console.capture() as captured:
        console.print(Padding(Text(usage, "bold"), (1, 1)))
        console.print(Padding(Text(description or ""), (0, 1, 1, 1)))
        for title, table in panels.items():
            if table.rows:
                console.print(Panel(table, title=title, title_align="left", border_style="dim"))
    return captured.get()


def _table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    return table


def _row(parameter: click.Parameter) -> tuple[Text, Text, Text]:
    """Its name, its kind of value, and what it is for."""
    if isinstance(parameter, Option | Argument):
        kind, text, default = parameter.kind, parameter.description, parameter.words
    else:
        kind, text, default = "<bool>", getattr(parameter, "help", "") or "", ""
    names = " ".join(sorted(parameter.opts, key=len, reverse=True))
    words = Text(text)
    if default:
        words.append(f" [default: {default}]", "dim")
    if parameter.required:
        words.append(" [required]", "dim red")
    if isinstance(parameter, Argument):
        names = (parameter.metavar or "").strip("[]")
    return Text(names, "bold cyan"), Text(kind, "bold yellow"), words
