"""A study: one question, checked settings in, a record and a page out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opmerge.errors import InputError
from opmerge.files import parse_json, write_atomic
from opmerge.page.study import Page, StudyPage, Told, study_page, tell
from opmerge.settings.base import Settings
from opmerge.versions import versions
from opmerge_studies.shared.runner import Runner


@dataclass(frozen=True)
class Study:
    """A question, and how its answer is computed and told.

    ``page.py`` beside the package's ``__init__.py`` draws the page (``opmerge.page.study``); it is
    not imported before it is asked for.

    Args:
        package: name of the package that it stands in: ``__name__`` there.
        settings: their type; its class method ``quick`` gives those of a demonstration.
        run: from settings and a runner to the record: JSON values, with what is best read as a
            table under ``tables``, lists of flat mappings by name.
        trains_networks: whether it needs the extra ``torch`` and hours rather than minutes; then
            it is no part of ``all``.
    """

    package: str
    question: str
    settings: type[Settings]
    run: Callable[[Any, Runner], Mapping[str, Any]]
    trains_networks: bool = False

    runner = Runner
    """Where and on what it is computed."""

    @property
    def name(self) -> str:
        """The name on the command line: ``better-than-teacher``."""
        return self.package.rpartition(".")[2].replace("_", "-")

    def configured(self, quick: bool, settings: Sequence[str] = ()) -> Settings:
        """Its settings, or those of a demonstration, with each ``KEY=VALUE`` replaced."""
        chosen: Settings = self.settings.quick() if quick else self.settings()  # type: ignore[attr-defined]
        return configure(chosen, settings)

    def record(self, settings: Settings, runner: Runner) -> dict[str, Any]:
        """The record, JSON values; what the folder holds of an interrupted run is kept."""
        record = {
            "format": "opmerge.study",
            "version": 1,
            "study": self.name,
            "question": self.question,
            "settings": settings.model_dump(mode="json"),
            "versions": versions(),
            **self.run(settings, runner),
        }
        return json.loads(json.dumps(record, allow_nan=False))

    def told(self, record: Mapping[str, Any]) -> Told:
        """What the page of a record says in words: its finding and claims; nothing is drawn."""
        return tell(*self._page(record))

    def page(self, record: Mapping[str, Any]) -> StudyPage:
        """The page of a record."""
        return study_page(record, *self._page(record))

    def _page(self, record: Mapping[str, Any]) -> tuple[Page, Path]:
        if find_spec("pandas") is None:
            install = 'pip install "opmerge[studies]"'
            raise InputError("pandas", "must be installed to draw a study's page", remedy=install)
        module = import_module(f"{self.package}.page")
        return module.page(record), Path(str(module.__file__)).with_name("page.md.j2")

    def write(self, folder: Path, record: Mapping[str, Any]) -> StudyPage:
        """Write record.json, tables/NAME.csv, figures/NAME.png and report.html."""
        write_atomic(folder / "record.json", json.dumps(record, allow_nan=False) + "\n")
        for name, rows in record.get("tables", {}).items():
            write_atomic(folder / "tables" / f"{name}.csv", _csv(rows))
        return self.draw(folder, record)

    def draw(self, folder: Path, record: Mapping[str, Any]) -> StudyPage:
        """Write figures/NAME.png and report.html of a record."""
        page = self.page(record)
        for name, picture in page.figures.items():
            write_atomic(folder / "figures" / f"{name}.png", picture)
        write_atomic(folder / "report.html", page.html)
        return page


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with a head line; the columns are those of the first row."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()


def configure(settings: Settings, changes: Sequence[str]) -> Settings:
    """Settings with each ``KEY=VALUE`` changed: a field or ``part.field``, and JSON or else text.

    Raises:
        InputError: if a key names no field, or a value does not suit it.
    """
    values = settings.model_dump(mode="json")
    for change in changes:
        _change(values, change)
    return settings.with_json(values) if changes else settings


def _change(values: Any, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise InputError("set", "must have the form KEY=VALUE", change)
    name, group = "", {"": values}
    for part in key.split("."):
        if not isinstance(group[name], dict):
            raise InputError("set", f"must not name a part of {name}", key)
        name, group = part, group[name]
        if name not in group:
            raise InputError("set", f"must name one of {', '.join(group)}", name)
    if isinstance(group[name], dict):
        raise InputError("set", "must name a setting inside", key, f"such as {key}.NAME")
    try:
        group[name] = parse_json(text)
    except ValueError:
        group[name] = text
