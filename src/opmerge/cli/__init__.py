"""The command line: parse, call, print.

Exit status: 0 done, 2 bad input (one line on standard error), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from opmerge.cli.commands import COMMANDS, GROUPS
from opmerge.errors import InputError

__all__ = ["app", "main"]

# Its own UsageError and ClickException, without naming the private module they live in.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130

app = typer.Typer(
    name="opmerge",
    help="Certified merge plans for diffusion trajectory distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("-", "_"),
    },
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"opmerge {importlib.metadata.version('opmerge')}")
        raise typer.Exit


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

for _name, (_help, _commands) in GROUPS.items():
    _group = typer.Typer(no_args_is_help=True)
    for _verb, _command in _commands.items():
        _group.command(_verb)(_command)
    app.add_typer(_group, name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="opmerge",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of standard output has gone, as in `opmerge … | head`
        _discard_output()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        if isinstance(error, OSError):
            _discard_output()
        print(f"opmerge: {' '.join(reason.split())}", file=sys.stderr)
        return 2
    if status == _INTERRUPTED:  # typer turns Ctrl-C into this status, silently
        print("opmerge: interrupted", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _reason(error: Exception) -> str | None:
    """What to tell of an error; None of one that is a fault of this program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, _CommandLineError):
        reason = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return f"{reason or 'a command is missing'}; see opmerge --help"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); use fewer steps or eigenvalues (--top_k)"
    if isinstance(error, RuntimeError) and _is_out_of_memory(error):
        return (
            "not enough memory for a batch; use a smaller --train_batch_size, with more "
            "--gradient_accumulation_steps, or a smaller --batch_size"
        )
    if isinstance(error, OSError):
        return f"standard output cannot be written ({error.strerror})"
    return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch, on whatever device, could not have the memory that it asked for."""
    if "torch" not in sys.modules:
        return False
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


def _discard_output() -> None:
    """What is left in the buffer cannot be written, and must not be tried again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
