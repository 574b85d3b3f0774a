"""How commands explain themselves: their parameters in panels, and all of them as a page.

``python -m opmerge.cli.help > docs/options.md`` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from opmerge.cli.options import Argument, Command, Commands, Option

__all__ = ["help_text", "reference"]


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
        names, kind, text, default = _cells(parameter)
        words = Text.assemble(text, (f" {default}".rstrip(), "dim"))
        row = Text(names, "bold cyan"), Text(kind, "bold yellow"), words
        panels.setdefault(panel, _table()).add_row(*row)
    if commands:
        panels["Commands"] = _table()
        for name, command in commands.items():
            panels["Commands"].add_row(Text(name, "bold cyan"), _summary(command))
    with console.capture() as captured:
        console.print(Padding(Text(usage, "bold"), (1, 1)))
        console.print(Padding(Text(description or ""), (0, 1, 1, 1)))
        for title, table in panels.items():
            if table.rows:
                console.print(Panel(table, title=title, title_align="left", border_style="dim"))
    return captured.get()


def reference(commands: Commands, path: str = "opmerge") -> Iterator[str]:
    """Lines of a Markdown page about every option of every command."""
    for name, command in commands.commands.items():
        if isinstance(command, Commands):
            yield from reference(command, f"{path} {name}")
        elif isinstance(command, Command):
            yield from ("", f"## {path} {name}", "", _summary(command), "")
            yield from ("| | | |", "|---|---|---|")
            for option in command.options:
                names, kind, *text = (cell.replace("|", "\\|") for cell in _cells(option))
                yield f"| `{names}` | {kind.strip('<>')} | {' '.join(text).rstrip()} |"


def _table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    return table


def _summary(command: click.Command) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def _cells(parameter: click.Parameter) -> tuple[str, str, str, str]:
    """Its name, its kind of value, what it is for, and its default."""
    names = " ".join(sorted(parameter.opts, key=len, reverse=True))
    if not isinstance(parameter, Option | Argument):
        return names, "<bool>", getattr(parameter, "help", None) or "", ""
    if isinstance(parameter, Argument):
        names = (parameter.metavar or "").strip("[]")
    default = "[required]" if parameter.required else f"[default: {parameter.words}]"
    is_told = parameter.required or parameter.words
    return names.split()[0], parameter.kind, parameter.description, default if is_told else ""


if __name__ == "__main__":
    from opmerge.cli import COMMANDS

    print("# Every option\n\nWritten from `opmerge.settings` by `python -m opmerge.cli.help`.")
    print("\n".join(reference(COMMANDS)))
