"""Files and folders written whole or not at all, and for good: on the disk, not in its cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import uuid4

from opmerge.errors import InputError

GO_ON = "make room and resume; what is finished is kept"
_PROBE_BYTES = 2**20


def expand_home(path: str | os.PathLike[str]) -> Path:
    """The path, with a leading ``~`` as a home folder if there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown user


def read_text(path: Path) -> str:
    """The text of a file, whose lines end in a line feed alone.

    It is UTF-8, or UTF-16 or -32 as Windows writes them; a mark of the byte order is left out.

    Raises:
        InputError: if it cannot be read, or is not such text.
    """
    try:
        content = path.read_bytes()
        text = content.decode(json.detect_encoding(content))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        requirement, value = "must be text in UTF-8", f"other bytes from {error.start} on"
        raise InputError(str(path), requirement, value, "save it in that encoding") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds, or ``InputError`` if it holds anything else."""
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"must hold JSON ({error})") from error
    if not isinstance(data, dict):
        raise InputError(str(path), "must hold a JSON object", data)
    return data


def check_inside(name: object, place: str | os.PathLike[str]) -> str:
    """The name of a file or part of a folder, refused (``InputError``) if it leads out of it."""
    parts = [kind(name).parts for kind in (PurePosixPath, PureWindowsPath) if isinstance(name, str)]
    if parts and all(part == (name,) and name != ".." for part in parts):
        return str(name)
    raise InputError(str(place), "must name files and parts inside its folder alone", name)


def write_atomic(
    path: str | os.PathLike[str], content: str | bytes, remedy: str = "choose another place"
) -> Path:
    """Write ``content`` beside ``path``, then rename, so no half-written file is ever seen.

    Missing parent folders are made. Text is written as UTF-8; what has no place in it, a byte of a
    file's name, stands there as JSON has it, "\\udcff". Returns the path written.

    Raises:
        InputError: if the file cannot be written (permission, full disk, a folder in the way).
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{uuid4().hex[:8]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder")
        with temporary.open("xb") as stream:
            stream.write(
                content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
            )
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise InputError(
            str(target), f"cannot be written ({error.strerror})", remedy=remedy
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return target


def why_not_written(error: Exception, folder: Path) -> str:
    """Why a library could not write: the system's reason, or else the first line of its own.

    Torch's writer says at which byte of its archive it stopped; a write of our own in the same
    folder (or what holds it), while what is half-written still takes the room, is told why.
    """
    for known in (error, error.__cause__):
        if isinstance(known, OSError) and known.strerror:
            return known.strerror
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as found:
        return found.strerror or str(found)
    return str(error).split("\n")[0]


@contextlib.contextmanager
def reading(path: Path, requirement: str) -> Iterator[None]:
    """Whatever a library says of a file of the user's is about the file: an ``InputError``."""
    try:
        yield
    except Exception as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(str(path), requirement, first_line) from error


@contextlib.contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place when the block ends without an error.

    Raises:
        InputError: if anything in it cannot be written; ``folder`` is then as it was.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        replace_folder(folder, unfinished)
    except Exception as error:
        # A full disk is an error of its own type in every library that writes.
        reason = why_not_written(error, folder.parent)
        raise InputError(str(folder), f"cannot be written ({reason})", remedy=GO_ON) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def replace_folder(folder: Path, finished: Path) -> None:
    """Put ``finished`` in the place of ``folder``, which comes back if that fails.

    Its files are on the disk before it has the name, so that whatever has the name is whole.

    Raises:
        OSError: if it cannot be renamed or brought to the disk.
    """
    for path in (*finished.rglob("*"), finished):
        _sync(path)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        finished.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file to the disk, or the names in a folder where its file system knows how to."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if path.is_file():
            raise
