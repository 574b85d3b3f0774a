"""All options of all commands as a page: ``python -m opmerge.cli.reference > docs/options.md``."""

from __future__ import annotations

from collections.abc import Iterator

from opmerge.cli import COMMANDS
from opmerge.cli.options import Command, Commands, summary


def reference(commands: Commands, path: str = "opmerge") -> Iterator[str]:
    """Lines of a Markdown page about every option of every command."""
    for name, command in commands.commands.items():
        if isinstance(command, Commands):
            yield from reference(command, f"{path} {name}")
        elif isinstance(command, Command):
            yield from ("", f"## {path} {name}", "", summary(command), "")
            yield from (f"    {line}" for line in (command.epilog or "").splitlines())
            yield from ("", "| option | value | meaning |", "|---|---|---|")
            for option in command.options:
                names, kind, *text = (cell.replace("|", "\\|") for cell in option.cells)
                yield f"| `{names}` | {kind.strip('<>')} | {' '.join(text).rstrip()} |"


if __name__ == "__main__":
    print("# Every option\n\nWritten from `opmerge.settings` by `python -m opmerge.cli.reference`.")
    print("\n".join(reference(COMMANDS)))
