"""What a study runs in: its folder, its progress, and sweeps whose finished cells are kept."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from opmerge.files import write_atomic
from opmerge_studies.shared.engines import Backend, run_calls

__all__ = ["Cell", "ProgressBar", "Report", "Runner", "no_progress"]


class Report(Protocol):
    """Called with the units of work done so far, and what is being done."""

    def __call__(self, done: float, doing: str = "") -> None: ...


ProgressBar = Callable[[str, float | None], AbstractContextManager[Report]]
"""Opens the progress of a piece of work, from its title and its units of work, if known."""

Cell = Mapping[str, Any]
"""Arguments of a function by name, JSON values."""

_MISSING = object()


@contextmanager
def no_progress(_title: str, _total: float | None) -> Iterator[Report]:
    """The progress of work that nobody watches."""
    yield lambda done, doing="": None


@dataclass(frozen=True)
class Runner:
    """Where and how a study is computed.

    Args:
        folder: the run directory.
        progress: opens a progress bar.
        warn: told, in a line, what was found damaged.
        num_workers: processes of a sweep; -1 for one a core.
        backend: what they run on (``engines``).
    """

    folder: Path
    progress: ProgressBar = no_progress
    warn: Callable[[str], None] = warnings.warn
    num_workers: int = -1
    backend: Backend = "loky"

    def sweep(self, function: Callable[..., Any], cells: Sequence[Cell], title: str) -> list[Any]:
        """``[function(**cell) for cell in cells]``, of which finished ones are kept on disk.

        The file of a cell is named by the digest of the function's name, the cell, the size and
        time of files that the cell names, and the package's source; it carries the digest of its
        result: one that is torn or altered is computed again, with a line that says so.

        Args:
            function: of a module, for workers import it; returns JSON values.
            cells: arguments, one mapping a call.
            title: what the work is.

        Raises:
            InputError: if the backend is not installed, a worker is killed (what is finished is
                kept), or a result cannot be written.
        """
        paths = [self.folder / "cells" / f"{_key(function, cell)}.json" for cell in cells]
        results = [self._read(path) for path in paths]
        missing = [number for number, result in enumerate(results) if result is _MISSING]
        if not missing:
            return results
        calls = [(number, dict(cells[number])) for number in missing]
        found = run_calls(_Call(function), calls, self.backend, self.num_workers)
        with self.progress(title, len(calls)) as report:
            for done, (number, result) in enumerate(found, start=1):
                results[number] = _write(paths[number], cells[number], result)
                report(done)
        return results

    def _read(self, path: Path) -> Any:
        """The result that a file holds, or ``_MISSING``."""
        if not path.exists():
            return _MISSING
        with suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["digest"] == _digest(content["result"]):
                return content["result"]
        self.warn(f"{path} is damaged; its cell is computed again")
        return _MISSING


@dataclass(frozen=True)
class _Call:
    """The function on a numbered cell."""

    function: Callable[..., Any]

    def __call__(self, call: tuple[int, dict[str, Any]]) -> tuple[int, Any]:
        number, cell = call
        return number, self.function(**cell)


def _write(path: Path, cell: Cell, result: Any) -> Any:
    """The result as it will be read again."""
    content = {"cell": dict(cell), "result": result, "digest": _digest(result)}
    text = json.dumps(content, allow_nan=False)
    write_atomic(path, text + "\n")
    return json.loads(text)["result"]


def _key(function: Callable[..., Any], cell: Cell) -> str:
    content = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "cell": dict(cell),
        "files": [_stamp(value) for value in cell.values() if isinstance(value, str)],
        "code": _code_digest(),
    }
    return _digest(content)[:24]


def _stamp(text: str) -> list[int]:
    """Size and time of a file that a cell names, whose content may change under its name."""
    with suppress(OSError, ValueError):
        found = Path(text).stat()
        return [found.st_size, found.st_mtime_ns]
    return []


@cache
def _code_digest() -> str:
    """Of the package's own source: other code is another result, whatever its version says."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
