"""Records of studies on disk, and pages drawn from records again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.errors import InputError
from opmerge.files import write_atomic

if TYPE_CHECKING:
    from opmerge.studies import Study

__all__ = ["redraw", "write_index", "write_study"]

_INCOMPLETE = (LookupError, TypeError, ValueError, AttributeError)  # of records of another making


def write_study(folder: Path, study: Study, record: Mapping[str, Any]) -> None:
    """Write record.json, tables/NAME.csv, figures/NAME.png and report.html."""
    write_atomic(folder / "record.json", json.dumps(record, allow_nan=False) + "\n")
    for name, rows in record.get("tables", {}).items():
        write_atomic(folder / "tables" / f"{name}.csv", _csv(rows))
    _draw(folder, study, record)


def write_index(folder: Path) -> Path:
    """Write report.html with a link to every study whose record is in the folder.

    Raises:
        InputError: if there is none.
    """
    from opmerge.reports.layout import IndexEntry, render_index
    from opmerge.studies import STUDIES

    entries = []
    for name, study in STUDIES.items():
        try:
            record = _find(folder / name)
            if record is None:
                continue
            finding = study.answer(record).finding
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
    from opmerge import records, studies
    from opmerge.reports import report_page

    record = _find(run)
    if record is None:
        return write_index(run)
    path = run / "record.json"
    kind = record.get("format")
    study = studies.STUDIES.get(str(record.get("study")))
    if kind != records.FORMAT and not (kind == studies.FORMAT and study is not None):
        raise InputError(str(path), "must be a record that `opmerge plan` or a study wrote")
    if record.get("version") != records.VERSION:
        known = records.VERSION
        raise InputError(f"{path}: version", f"must be {known}", repr(record.get("version")))
    try:
        if study is not None:
            return _draw(run, study, record)
        return write_atomic(run / "report.html", report_page(record))
    except InputError:
        raise
    except _INCOMPLETE as error:
        raise InputError(str(path), f"must be a complete record ({error!r})") from error


def _draw(folder: Path, study: Study, record: Mapping[str, Any]) -> Path:
    from opmerge.plotting import figure_png
    from opmerge.reports.layout import slug

    for section in study.sections(record):
        if section.draw is not None:
            picture = figure_png(section.draw())
            write_atomic(folder / "figures" / f"{slug(section.heading)}.png", picture)
    return write_atomic(folder / "report.html", study.page(record))


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


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with a head line; the columns are those of the first row."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()
