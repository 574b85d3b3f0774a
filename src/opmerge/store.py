"""Finished parts of a run, kept on disk: read again if they are whole and what is asked for.

A part is a JSON value in a file of its own, or a folder that a marker in it calls finished. With it
stands its identity, JSON values that decide what it must be (settings, digests of data, code): a
part of another identity is computed again, and so is one that is torn or was altered, with a line
that says so. Files are written atomically, so a killed run leaves whole parts or none.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from opmerge.files import GO_ON, parse_json, read_text, write_atomic

MISSING: Final = object()
"""What ``Store.read`` returns where nothing that can be used is kept."""

_MARKER = "finished"
_ALTERED = "is damaged; it is computed again"
_ANOTHER = "was computed from other settings, data or code; it is computed again"
_FEWEST_DIGITS = 24  # of a digest that names a file


@dataclass(frozen=True)
class Store:
    """A folder of finished parts; ``warn`` is told, in a line, of each that cannot be used."""

    folder: Path
    warn: Callable[[str], None] = warnings.warn

    def kept(self, name: str, identity: Any, compute: Callable[[], Any]) -> Any:
        """The value of ``compute()``, called only where ``folder/NAME.json`` keeps none to use.

        The value, and the identity on which it depends, are JSON values, and it is returned as the
        file is read, whether or not it was there before. The name is a path in the folder, such as
        ``probes/5f3a``: with ``digest(identity)`` if parts of several identities are kept at once.

        Raises:
            InputError: if it cannot be written.
            ValueError: if it holds NaN or infinity.
        """
        value = self.read(name, identity)
        return self.write(name, identity, compute()) if value is MISSING else value

    def kept_folder(
        self, name: str, identity: Any, make: Callable[[Path], Any], files: Sequence[str] = ()
    ) -> Any:
        """The value of ``make(folder/NAME)``, which fills that folder; it is kept with the folder.

        The name ``.`` is the store's folder itself. What an earlier ``make`` left, interrupted or
        of another identity, is still there, to resume from or to replace. It returns JSON values,
        such as what was measured. ``files`` of the folder must be there as it left them; they are
        read whole each time.

        Raises:
            InputError: if the marker cannot be written.
        """
        folder, marker = self.folder / name, f"{name}/{_MARKER}"
        note = self.read(marker, identity)
        if note is not MISSING:
            if note["files"] == _digests(folder, files):
                return note["value"]
            self.warn(f"{folder} {_ALTERED}")
        self.path(marker).unlink(missing_ok=True)  # it tells of files that are replaced now
        value = make(folder)
        note = self.write(marker, identity, {"value": value, "files": _digests(folder, files)})
        return note["value"]

    def read(self, name: str, identity: Any) -> Any:
        """The value kept under a name, or ``MISSING``: see ``kept``."""
        path = self.path(name)
        if not path.exists():
            return MISSING
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            content = parse_json(read_text(path))
            result = content["result"]
            if content["digest"] == digest(result):
                # before identities stood in files, they were only the names of the files
                named = len(path.stem) >= _FEWEST_DIGITS and digest(identity).startswith(path.stem)
                if content["identity"] == _as_read(identity) if "identity" in content else named:
                    return result
                self.warn(f"{path} {_ANOTHER}")
                return MISSING
        self.warn(f"{path} {_ALTERED}")
        return MISSING

    def write(self, name: str, identity: Any, value: Any) -> Any:
        """Keep a value under a name, and return it as it will be read again: see ``kept``."""
        result = _as_read(value)
        content = {"identity": identity, "result": result, "digest": digest(result)}
        write_atomic(self.path(name), json.dumps(content) + "\n", GO_ON)
        return result

    def path(self, name: str) -> Path:
        """The file of the value that is kept under a name."""
        return self.folder / f"{name}.json"


def digest(content: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digests(folder: Path, files: Sequence[str]) -> dict[str, str | None]:
    """The digest of each file; None of one that is missing."""
    paths = {name: folder / name for name in files}
    return {name: file_digest(path) if path.is_file() else None for name, path in paths.items()}


def _as_read(content: Any) -> Any:
    """JSON values as a file returns them: tuples as lists, keys as text."""
    return json.loads(json.dumps(content, allow_nan=False))
