"""Writing files and folders whole or not at all, and for good: on the disk, not in its cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from opmerge.errors import InputError

GO_ON = "make room and resume; what is finished is kept"
_PROBE_BYTES = 2**20


def expand_home(path: str | os.PathLike[str]) -> Path:
    """The path, with a leading ``~`` as a home folder if there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown user


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` beside ``path``, then rename, so no half-written file is ever seen.

    Missing parent folders are made. Text is written as UTF-8.

    Returns:
        The path written.

    Raises:
        InputError: if the file cannot be written (permission, full disk, a folder in the way).
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder")
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        written = Path(temporary)
        written.chmod(0o666 & ~_umask())
        written.replace(target)
        temporary = None
        _sync_names(target.parent)
    except OSError as error:
        raise InputError(
            str(target), f"cannot be written ({error.strerror})", remedy="choose another place"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def why_not_written(error: Exception, folder: Path) -> str:
    """Why a library could not write: the system's reason, or else the first line of its own.

    Torch's writer says at which byte of its archive it stopped; a write of our own in the same
    folder, while what is half-written still takes the room, is told why.

    Args:
        error: what the library raised.
        folder: where it wrote, or what holds that.
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
    for path in finished.rglob("*"):
        if path.is_dir():
            _sync_names(path)
        else:
            _sync(path)
    _sync_names(finished)
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
    _sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_names(folder: Path) -> None:
    """Bring what stands in a folder to the disk, where its file system knows how to."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
