"""The studies that are installed, and pages drawn again from records on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from opmerge.errors import InputError
from opmerge.files import write_atomic

__all__ = ["Study", "load_study", "redraw", "study_names", "write_index"]

_GROUP = "opmerge.studies"
_FORMAT, _VERSION = "opmerge.study", 1
_INCOMPLETE = (LookupError, TypeError, ValueError, AttributeError)  # of records of another making


class Study(Protocol):
    """What a package registers under the entry point group ``opmerge.studies``."""

    name: str
    question: str
    trains_networks: bool

    def configured(self, quick: bool, settings: Sequence[str] = ()) -> Any:
        """Its settings, with ``KEY=VALUE`` replaced."""

    def runner(
        self,
        folder: Path,
        progress: Callable[..., Any],
        warn: Callable[[str], None],
        num_workers: int,
        backend: str,
    ) -> Any:
        """What it runs in."""

    def record(self, settings: Any, runner: Any) -> dict[str, Any]:
        """The record."""

    def told(self, record: Mapping[str, Any]) -> Any:
        """What the page of a record says in words, with its ``finding``."""

    def write(self, folder: Path, record: Mapping[str, Any]) -> Any:
        """Write a record, its tables, figures and page; returns the page."""

    def draw(self, folder: Path, record: Mapping[str, Any]) -> Any:
        """Write figures and page of a record; returns the page."""


def study_names() -> list[str]:
    """The names of all studies that are installed."""
    return sorted(_entries())


def load_study(name: str) -> Study:
    """The study of a name that ``study_names`` gave."""
    study: Study = _entries()[name].load()
    return study


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def write_index(folder: Path) -> Path:
    """Write report.html with a link to every study whose record is in the folder.

    Raises:
        InputError: if there is none.
    """
    from opmerge.page.layout import IndexEntry, render_index

    entries = []
    for name in study_names():
        study = load_study(name)
        try:
            record = _find(folder / name)
            if record is None:
                continue
            finding = study.told(record).finding
        except (InputError, *_INCOMPLETE) as error:
            finding = f"The record cannot be read: {error!r}"
        entries.append(IndexEntry(name, study.question, finding, f"{name}/report.html"))
    if not entries:
        raise InputError("run", "must be the folder of a plan or of studies", str(folder))
    title = "Merge plans for diffusion trajectory distillation: every study and its answer"
    return write_atomic(folder / "report.html", render_index(title, entries))


def redraw(run: Path) -> Path:
    """Write report.html again from record.json, or an index of the studies below.

    Returns:
        Path of the page.

    Raises:
        InputError: if there is no complete record.
    """
    from opmerge.page import report_page
    from opmerge.planners import record as planning

    record = _find(run)
    if record is None:
        return write_index(run)
    path = run / "record.json"
    kind, name = record.get("format"), str(record.get("study"))
    is_study = kind == _FORMAT and name in study_names()
    if kind != planning.FORMAT and not is_study:
        raise InputError(str(path), "must be a record that `opmerge plan` or a study wrote")
    known = _VERSION if is_study else planning.VERSION
    if record.get("version") != known:
        raise InputError(f"{path}: version", f"must be {known}", repr(record.get("version")))
    try:
        if is_study:
            load_study(name).draw(run, record)
            return run / "report.html"
        return write_atomic(run / "report.html", report_page(record))
    except InputError:
        raise
    except _INCOMPLETE as error:
        raise InputError(str(path), f"must be a complete record ({error!r})") from error


def _find(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, if there is one."""
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"must be a record ({error})") from error
    if not isinstance(record, dict):
        raise InputError(str(path), "must be a record that `opmerge plan` or a study wrote")
    return record
