"""The command line: parse, call, print.

Exit status: 0 done, 2 bad input (one line on standard error), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from opmerge import clock
from opmerge.cli import (
    calibrating,
    exploring,
    planning,
    preparing,
    spending,
    students,
    studies,
    training,
    vae,
)
from opmerge.cli.libraries import library_fault
from opmerge.cli.options import OTHERWISE, Commands, as_option
from opmerge.cli.streams import discard, prepare_streams
from opmerge.errors import InputError

__all__ = ["COMMANDS", "main"]

COMPLETE = "_OPMERGE_COMPLETE"
"""The variable by which click's scripts for shells ask how a word could go on."""

COMMANDS = Commands(
    "opmerge",
    "Certified merge plans for diffusion trajectory distillation.",
    {
        "run": spending.run,
        "plan": planning.plan,
        "compare": planning.compare,
        "evaluate": planning.evaluate,
        "spectrum": planning.spectrum,
        "explore": exploring.explore,
        "report": studies.report,
        "prepare": preparing.prepare,
        "train-teacher": training.train_teacher,
        "distill": training.distill,
        "sample": students.sample,
        "evaluate-student": students.evaluate_student,
        "calibrate": calibrating.calibrate,
        "export": students.export,
        "study": studies.study,
        "vae": Commands(
            "vae",
            "Images as latents: train an autoencoder, encode, decode.",
            {"train": vae.train, "encode": vae.encode, "decode": vae.decode},
        ),
    },
)
click.version_option(
    package_name="opmerge", message="%(prog)s %(version)s", help="Print the version and exit."
)(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, of the program by default; returns the exit status."""
    words = arguments
    if words is None:  # began with the imports
        _hear_signals()
        prepare_streams()
        if (asked := os.environ.get(COMPLETE)) is not None:  # the shell, for the tab key
            return shell_complete(COMMANDS, {}, "opmerge", COMPLETE, asked)
        words = sys.argv[1:]
    else:
        clock.begin()
    # read where these libraries are first imported: to be quiet, and to use torch
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.update(USE_TORCH="1", USE_TF="0")
    try:
        with (
            contextlib.suppress(click.exceptions.Exit),
            COMMANDS.make_context("opmerge", list(words)) as context,
        ):
            COMMANDS.invoke(context)
        print(end="", flush=True)
    except BrokenPipeError:  # of a caller's stream
        discard(sys.stdout)
    except (KeyboardInterrupt, Exception) as error:
        if _is_interrupt(error):
            if arguments is None:  # the program: a second one would break off its way out
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            print("opmerge: interrupted", file=sys.stderr)
            return 130
        reason = _reason(error)
        if reason is None:
            raise
        if isinstance(error, OSError):  # of standard output, it may be
            discard(sys.stdout)
        print(f"opmerge: {' '.join(reason.split())}", file=sys.stderr)
        return 2
    return 0


def _hear_signals() -> None:
    """End by what would kill the program as by Ctrl-C, so that workers end with it."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether that is an interrupt, or what failed on the way out of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _reason(error: BaseException) -> str | None:
    """What to tell of an error; None of one that is a fault of this program."""
    if isinstance(error, click.ClickException):
        return f"{error.format_message().rstrip('.')}; see opmerge --help"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); use fewer steps or eigenvalues (--top_k)"
    fault = error if isinstance(error, InputError) else library_fault(error)
    if fault is not None:
        return str(fault.in_words(as_option, OTHERWISE))
    if isinstance(error, OSError):
        found = "standard output" if error.filename is None else error.filename
        return f"{found} cannot be used ({error.strerror or error})"
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from accelerate.utils.memory import should_reduce_batch_size

        if should_reduce_batch_size(error):  # torch's, on whatever device
            return (
                "not enough memory for a batch; use a smaller --train_batch_size, with more "
                "--gradient_accumulation_steps, or a smaller --batch_size"
            )
    return None
