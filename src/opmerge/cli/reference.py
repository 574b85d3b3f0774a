"""All options of all commands as a page: ``python -m opmerge.cli.reference > docs/options.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from opmerge.cli import COMMANDS
from opmerge.cli.help import Explained, cells, summary


def reference(commands: click.Group, path: str = "opmerge") -> Iterator[str]:
    """Lines of a Markdown page about every option of every command."""
    for name, command in commands.commands.items():
        if isinstance(command, click.Group):
            yield from reference(command, f"{path} {name}")
        else:
            yield from ("", f"## {path} {name}", "", summary(command), "")
            yield from ("| | | |", "|---|---|---|")
            shown = command.get_params(click.Context(command))
            for option in (each for each in shown if isinstance(each, Explained)):
                names, kind, *text = (cell.replace("|", "\\|") for cell in cells(option))
                yield f"| `{names}` | {kind.strip('<>')} | {' '.join(text).rstrip()} |"


if __name__ == "__main__":
    print("# Every option\n\nWritten from `opmerge.settings` by `python -m opmerge.cli.reference`.")
    print("\n".join(reference(COMMANDS)))
