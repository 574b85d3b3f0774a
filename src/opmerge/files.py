"""Files and folders written whole or not at all, and for good: on the disk, not in its cache."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from opmerge.errors import InputError

if TYPE_CHECKING:  # start-up needs files, and no arrays
    import numpy as np
    from numpy.typing import NDArray

GO_ON = "make room and resume; what is finished is kept"
_ELSEWHERE = "choose another place"
_UNFINISHED, _OLD = ".unfinished", ".old"  # ends of names that begin with a dot
_REPLACED = re.compile(r"checkpoint-\d+|student|teacher|vae")  # folders that take another's place
_PROBE_BYTES = 2**20
_LARGEST_JSON = 256 * 2**20  # of the record of a planning run: of 20,000 eigenvalues 5 MB
_MOST_UNPACKED, _MOST_RATIO = 2**30, 100  # bytes, and how many for each of the archive's
_MOST_DIGITS = 308
_SHOWN = 20


def expand_home(path: str | os.PathLike[str]) -> Path:
    """The path, with a leading ``~`` as a home folder if there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown user


def read_text(path: Path, most: float = math.inf) -> str:
    """The text of a file, of so many bytes at most, whose lines end in a line feed alone.

    It is UTF-8, or UTF-16 or -32 as Windows writes them; a mark of the byte order is left out.

    Raises:
        InputError: if it cannot be read, is larger or no regular file, or is not such text.
    """
    try:
        with open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise InputError(str(path), f"must be at most {most / 2**20:g} MiB", size)
            content = stream.read()
        text = content.decode(json.detect_encoding(content))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        requirement, value = "must be text in UTF-8", f"other bytes from {error.start} on"
        raise InputError(str(path), requirement, value, "save it in that encoding") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_plain(path: Path) -> None:
    """Refuse a text file that ``read_text`` reads and libraries do not, which read plain UTF-8.

    Raises:
        InputError: if it begins with a mark of the byte order, or is in another encoding.
    """
    if path.is_file() and json.detect_encoding(path.read_bytes()) != "utf-8":
        requirement = "must be UTF-8 without a byte order mark, as diffusers reads it"
        raise InputError(str(path), requirement, remedy="save it again as that")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A file opened to be read; without waiting for anybody to write it, and with an end.

    Raises:
        OSError: if it cannot be opened.
        InputError: for a pipe, a device or a socket.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise InputError(os.fspath(path), "must be a regular file, not a pipe or a device")


def parse_json(text: str, is_strict: bool = False) -> Any:
    """The value of a JSON text whose numbers are those of float64.

    Strictly, NaN and Infinity are no numbers, and no key stands twice in an object.

    Raises:
        ValueError: for anything else; for one that is nested too deep, too.
    """
    try:
        return json.loads(
            text,
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=_refuse if is_strict else None,
            object_pairs_hook=_unique if is_strict else None,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:_SHOWN]} is too large for a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:_SHOWN]}… is too large for a number")
    return int(text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def load_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a .npz file; nothing is unpickled.

    Raises:
        InputError: if it is no regular file, or one that unpacks to far more than it takes.
        OSError, KeyError: if it cannot be read.
        ValueError: if it is no such archive, or a damaged one.
    """
    stored = load_arrays(path)
    if not isinstance(stored, dict):
        raise ValueError("not a zip archive")
    return stored


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Any] | NDArray[Any]:
    """The arrays of a .npz file as ``load_npz``, or the one of a .npy file, whatever its name."""
    import numpy as np

    with open_file(path) as stream:  # np.load leaves a file that it refuses open
        try:
            check_unpacked(stream, path)
            stored = np.load(stream, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                return np.asarray(stored)
            return {name: member(stored, name) for name in stored.files}
        except (InputError, OSError, KeyError, MemoryError):
            raise
        except Exception as error:  # of damaged headers and archives, errors of any type
            raise ValueError(str(error) or type(error).__name__) from error


def member(archive: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    """One array of a .npz file; what is none in it, NumPy gives as bytes.

    Raises:
        ValueError: for such a member; OSError, KeyError, zipfile.BadZipFile if it is damaged.
    """
    import numpy as np

    values = archive[name]
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{name} is no array")
    return values


def check_unpacked(stream: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Refuse an archive that unpacks to over a GiB and over a hundred times of what it takes."""
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        size = os.fstat(stream.fileno()).st_size
        if unpacked > max(_MOST_UNPACKED, _MOST_RATIO * size):
            got = f"{unpacked / 2**30:.1f} GiB from {size / 2**20:.1f} MiB"
            need = "must not unpack to over a hundred times of what it takes"
            raise InputError(os.fspath(path), need, got, "save it uncompressed")
    stream.seek(0)


def read_json_object(path: Path, is_strict: bool = False) -> dict[str, Any]:
    """The JSON object that a file holds, or ``InputError`` if it holds anything else."""
    text = read_text(path, _LARGEST_JSON)
    try:
        data = parse_json(text, is_strict)
    except ValueError as error:
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
    path: str | os.PathLike[str], content: str | bytes, remedy: str = _ELSEWHERE
) -> Path:
    """Write ``content`` beside ``path``, then rename, so no half-written file is ever seen.

    Missing parent folders are made. Text is written as UTF-8; what has no place in it, a byte of a
    file's name, stands there as JSON has it, "\\udcff". Returns the path written.

    Raises:
        InputError: if the file cannot be written (permission, full disk, a folder in the way).
    """
    write_together({Path(path): content}, remedy)
    return Path(path)


def write_together(contents: Mapping[Path, str | bytes], remedy: str = _ELSEWHERE) -> None:
    """Write files as ``write_atomic``, each in its place when all of them are on the disk.

    Raises:
        InputError: naming the first that cannot be written; all are then as they were.
    """
    temporaries: dict[Path, Path] = {}
    target = Path()
    try:
        for target, content in contents.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(21, "is a folder")
            temporaries[target] = target.with_name(f".{target.name}.{uuid4().hex[:8]}{_UNFINISHED}")
            with temporaries[target].open("xb") as stream:
                if isinstance(content, str):
                    stream.write(content.encode(errors="backslashreplace"))
                else:
                    stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for target, temporary in temporaries.items():
            temporary.replace(target)
            _sync(target.parent)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise InputError(str(target), reason, remedy=remedy) from error
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


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
    except InputError:
        raise
    except Exception as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(str(path), requirement, first_line) from error


@contextlib.contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place when the block ends without an error.

    Raises:
        InputError: if anything in it cannot be written, when ``folder`` is as it was, or it has no
            name that another could take.
    """
    if folder.name in ("", ".."):
        raise InputError(str(folder), "must be a folder with a name of its own")
    unfinished = in_place(folder).with_name(f".{folder.name}{_UNFINISHED}")
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


def in_place(folder: Path) -> Path:
    """The folder, first put in its place where a run was killed while it was replacing it.

    Between the two renames of ``replace_folder`` nothing has its name; what it was to be replaced
    by is whole then, and takes the place, or on a disk that cannot be written to stands for it.
    """
    if not folder.name or folder.exists():
        return folder
    finished, old = (folder.with_name(f".{folder.name}{end}") for end in (_UNFINISHED, _OLD))
    if old.is_dir():
        whole = finished if finished.is_dir() else old
        try:
            whole.rename(folder)
        except OSError:
            return folder if folder.exists() else whole  # another process did so just now, or not
    return folder


def sweep(folder: Path) -> None:
    """Remove what runs that were killed left in a folder of theirs and those directly in it.

    Nothing else may be writing there. Files and folders that were not finished go, and those that
    were replaced, or put aside to be removed, once what replaces them is in its place.
    """
    for each in (folder, *(path for path in folder.glob("*/") if not path.is_symlink())):
        for path in each.glob(f".?*{_OLD}"):
            name = path.name[1 : -len(_OLD)]
            if _REPLACED.fullmatch(name) and path.is_dir():
                in_place(each / name)
                shutil.rmtree(path, ignore_errors=True)
        for path in each.glob(f".?*{_UNFINISHED}"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder, so that no half of it ever has its name."""
    aside = folder.with_name(f".{folder.name}{_UNFINISHED}")
    with contextlib.suppress(OSError):
        folder.rename(aside)
        folder = aside
    shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, finished: Path) -> None:
    """Put ``finished`` in the place of ``folder``, which comes back if that fails.

    Its files are on the disk before it has the name, so that whatever has the name is whole.

    Raises:
        OSError: if it cannot be renamed or brought to the disk.
    """
    for path in (*finished.rglob("*"), finished):
        _sync(path)
    old = folder.with_name(f".{folder.name}{_OLD}")
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
