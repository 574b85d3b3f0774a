"""The commands `study` and `report`: experiments that are installed, and pages drawn again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from opmerge.cli import runs
from opmerge.cli.libraries import variable_fault
from opmerge.cli.networks import prepare_libraries
from opmerge.cli.progress import progress_bar, resumable, say
from opmerge.errors import InputError
from opmerge.files import read_json_object, write_atomic
from opmerge.versions import TRAINING_LIBRARIES

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from opmerge.settings.commands import ReportOptions, StudyOptions

_ALL = "all"
_FORMAT, _VERSION = "opmerge.study", 1
_INCOMPLETE = (LookupError, TypeError, ValueError, AttributeError)  # of records of another making


class Study(Protocol):
    """What a package registers under the entry point group ``opmerge.studies``.

    From settings (``configured``, with ``KEY=VALUE`` replaced) and what it runs in (``runner``) it
    makes a ``record``, writes it with tables, figures and page, and draws these again.
    """

    name: str
    question: str
    trains_networks: bool
    configured: Callable[[bool, Sequence[str]], Any]
    runner: Callable[[Path, Callable[..., Any], Callable[[str], None], int, str], Any]
    record: Callable[[Any, Any], dict[str, Any]]
    told: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Path, Mapping[str, Any]], Any]
    draw: Callable[[Path, Mapping[str, Any]], Any]


def study(asked: StudyOptions) -> None:
    """Answer a question by experiment: a record and a page; an interrupted study goes on.

    Examples:
        opmerge study --list
        opmerge study phase --quick
        opmerge study synthetic --set 'steps=[64,128]'
    """
    studies, name = study_names(), asked.name
    if asked.show_list:
        for key in studies:
            print(f"{key}: {_question(key)}")
        return
    if name is None or name not in (_ALL, *studies):
        raise InputError("study", f"must be {_ALL} or one of {', '.join(studies)}", name or "none")
    folder = asked.output_dir or Path("runs") / name
    changes = [*asked.settings, *(["neural=true"] if asked.neural else [])]
    if name == _ALL:
        _run_all(folder, asked, changes)
    else:
        print(_run(load_study(name), folder, asked, changes))
        print(f"written: {folder / 'record.json'}, {folder / 'report.html'}")


def report(asked: ReportOptions) -> None:
    """Draw the report of a run again, from its record; nothing is computed.

    Examples:
        opmerge report runs/phase
    """
    print(f"written: {_redraw(asked.run)}")


def study_names() -> list[str]:
    """The names of all studies that are installed."""
    return sorted(_entries())


def load_study(name: str) -> Study:
    """The study of a name that ``study_names`` gave.

    Raises:
        InputError: if its package, which may be anyone's, cannot be imported.
    """
    entry = _entries()[name]
    try:
        study: Study = entry.load()
    except Exception as error:  # whatever a package of another's raises is about it
        reason = f"{type(error).__name__}: {error}"
        need = f"must be importable from {entry.value}"
        raise variable_fault(error) or InputError(name, need, reason) from error
    return study


def _question(name: str) -> str:
    try:
        return load_study(name).question
    except InputError as error:
        return str(error)


def _entries() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group="opmerge.studies")}


def _run(study: Study, folder: Path, asked: StudyOptions, changes: Sequence[str]) -> str:
    """Run a study into a folder; its finding."""
    if study.trains_networks:
        prepare_libraries()
    settings = study.configured(asked.quick, changes)
    runs.prepare_folder(folder)
    runner = study.runner(folder, progress_bar, say, asked.num_workers, asked.backend)
    try:
        with resumable("the same command"):
            record = study.record(settings, runner)
    except InputError as error:
        raise error.in_words(_as_setting(settings.model_dump())) from error
    finding = study.write(folder, record).finding
    options = {"quick": asked.quick, "set": changes}
    libraries = TRAINING_LIBRARIES if study.trains_networks else ()
    runs.write_config(folder, f"study {study.name}", options, libraries=libraries)
    return str(finding)


def _run_all(folder: Path, asked: StudyOptions, changes: Sequence[str]) -> None:
    """Run every study that trains no network; one that fails does not stop the others."""
    if changes:
        raise InputError("set", "must be left out with all, for studies differ in settings")
    runs.prepare_folder(folder)
    failed = []
    for name in study_names():
        try:
            study = load_study(name)
            if not study.trains_networks:
                print(f"{name}: {_run(study, folder / name, asked, changes)}")
        except InputError as error:
            failed.append(name)
            print(f"opmerge: {name}: {error}", file=sys.stderr)
    print(f"written: {_write_index(folder)}")
    if failed:
        raise InputError("study", f"must run, and {', '.join(failed)} did not; the rest is written")


def _as_setting(settings: Mapping[str, Any]) -> Callable[[str, str | None], str | None]:
    """What this command calls an argument: ``--set source_options.split=all``."""
    places: dict[str, str] = {}

    def note(settings: Mapping[str, Any], outer: str = "") -> None:
        for name, value in settings.items():
            places.setdefault(name, f"{outer}{name}")
            if isinstance(value, Mapping):
                note(value, f"{outer}{name}.")

    def words(name: str, value: str | None) -> str | None:
        text = "" if value is None else f"={value.strip(chr(34)).replace('True', 'true')}"
        return f"--set {places[name]}{text}" if name in places else None

    note(settings)
    return words


def _redraw(run: Path) -> Path:
    """Write report.html again from record.json, or an index of the studies below; its path."""
    from opmerge.page import report_page
    from opmerge.planners import record as planning

    record, path, page = _find(run), run / "record.json", run / "report.html"
    runs.prepare_folder(run if run.is_dir() else None)
    if record is None:
        return _write_index(run)
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
        else:
            write_atomic(page, report_page(record))
    except InputError:
        raise
    except _INCOMPLETE as error:
        raise InputError(str(path), f"must be a complete record ({error!r})") from error
    return page


def _write_index(folder: Path) -> Path:
    """Write report.html with a link to every study whose record is in the folder; its path."""
    from opmerge.page.layout import render_index

    entries = []
    for name in study_names():
        try:
            record = _find(folder / name)
            if record is None:
                continue
            finding = load_study(name).told(record).finding
        except (InputError, *_INCOMPLETE) as error:
            finding = f"The record cannot be read: {error!r}"
        entries.append((name, _question(name), finding))
    if not entries:
        raise InputError("run", "must be the folder of a plan or of studies", str(folder))
    title = "Merge plans for diffusion trajectory distillation: every study and its answer"
    return write_atomic(folder / "report.html", render_index(title, entries))


def _find(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, if there is one."""
    path = folder / "record.json"
    return read_json_object(path, is_strict=True) if path.is_file() else None
