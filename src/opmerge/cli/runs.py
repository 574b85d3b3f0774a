"""The run directory: what commands write, each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import opmerge
from opmerge.errors import InputError
from opmerge.files import sweep, write_atomic, write_together
from opmerge.launcher import is_first
from opmerge.versions import TRAINING_LIBRARIES, versions

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opmerge.settings.base import Settings

_LOCKS = "opmerge.locks"  # of a command's click context: the folders that it holds


def prepare_folder(folder: Path | None) -> None:
    """Make the output folder, and make sure it can be written to, before any long work.

    Folders that were made and are empty when the command ends, refused, are taken away again. Until
    then no other command that asks for the folder gets it.
    """
    if folder is None:
        return
    try:
        _make(folder)
        if _lock(folder):
            sweep(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except BlockingIOError as error:
        requirement = "must be a folder that no other command is writing to"
        remedy = "wait for it, or choose another place"
        raise InputError("output_dir", requirement, str(folder), remedy) from error
    except OSError as error:
        need = f"must be a folder that can be written to ({error.strerror})"
        raise InputError("output_dir", need, str(folder)) from error


def prepare_file(path: Path) -> None:
    """Make sure that a file can be written, before any long work; its folder as above."""
    try:
        _make(path.parent)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        need = f"must be a file that can be written ({error.strerror})"
        raise InputError("output", need, str(path)) from error


def _make(folder: Path) -> None:
    """Make a folder, taken away again when the command ends if it is empty then."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if made and (command := click.get_current_context(silent=True)):
        command.call_on_close(lambda: _remove_empty(made))
    folder.mkdir(parents=True, exist_ok=True)


def _lock(folder: Path) -> bool:
    """Keep a folder for this command, by a lock of the system's that ends with its process; whether
    it is kept now and was not before.

    The folder itself is locked, so that no file is left behind. The first of several processes of
    one run holds it for all; where file systems or machines know no such lock, there is none.

    Raises:
        BlockingIOError: if another has it.
    """
    command = click.get_current_context(silent=True)
    if fcntl is None or command is None or not is_first():
        return False
    held = command.find_root().meta.setdefault(_LOCKS, set())
    if (place := folder.resolve()) in held:
        return False
    handle = os.open(folder, os.O_RDONLY)
    command.find_root().call_on_close(lambda: os.close(handle))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # not on every file system
        return False
    held.add(place)
    return True


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, each before the one that holds it, up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write_run(
    folder: Path,
    plan: opmerge.PlanFile,
    record: Mapping[str, Any],
    command: str,
    *options: Settings | Mapping[str, Any],
) -> None:
    """Write config.json, record.json, report.html and, last, plan.json.

    All of it is on the disk before any of it has its name, so that a failure leaves the folder as
    it was.
    """
    from opmerge.page import report_page

    contents = {
        "config.json": _config(command, *options, libraries=()),
        "record.json": json.dumps(record, allow_nan=False) + "\n",
        "report.html": report_page(record),
        "plan.json": plan.dumps(),
    }
    write_together({folder / name: text for name, text in contents.items()})


def write_spectrum(folder: Path, spectrum: opmerge.Spectrum) -> None:
    """Write spectrum.npz and spectrum.png, or neither."""
    from opmerge.page.plan import spectrum_figure
    from opmerge.plotting import figure_png

    picture = figure_png(spectrum_figure(spectrum.eigenvalues, spectrum.multiplicities))
    contents = {"spectrum.npz": spectrum.to_bytes(), "spectrum.png": picture}
    write_together({folder / name: content for name, content in contents.items()})


def write_config(
    folder: Path,
    command: str,
    *options: Settings | Mapping[str, Any],
    libraries: Sequence[str] = TRAINING_LIBRARIES,
) -> None:
    """Write config.json of a command: every option as used, and the versions of libraries."""
    write_atomic(folder / "config.json", _config(command, *options, libraries=libraries))


def _config(command: str, *options: Settings | Mapping[str, Any], libraries: Sequence[str]) -> str:
    config = {
        "command": command,
        "options": {key: value for each in options for key, value in dict(each).items()},
        "versions": versions(*libraries),
        "git_commit": _git_commit(),
    }
    return json.dumps(config, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value.model_dump()


def _git_commit() -> str | None:
    """Commit of the folder that the command runs in, where there is one."""
    import subprocess

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()
    return None
