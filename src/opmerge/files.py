"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from opmerge.errors import InputError

__all__ = ["write_atomic"]


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
    except OSError as error:
        raise InputError(
            str(target), f"cannot be written ({error.strerror})", remedy="choose another place"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
