"""Studies: one question each, a typed configuration in, a record and a page out.

A study called ``some-name`` is two modules: ``opmerge.studies.some_name`` with ``Config`` (a
dataclass with a class method ``quick``) and ``run``, and ``opmerge.reports.some_name`` with
``study_page`` and ``finding``. Neither is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "STUDIES", "VERSION", "Advance", "ProgressBar", "Study"]

FORMAT = "opmerge.study"
VERSION = 1

Advance = Callable[[float, str], None]
"""Called with the units of work done since, and what is being done."""

ProgressBar = Callable[[str, float], AbstractContextManager[Advance]]
"""Opens the progress of a piece of work, from its title and its units of work."""


@dataclass(frozen=True)
class Study:
    """A question, and where its answer is computed and told.

    Args:
        module: name of its module in ``opmerge.studies`` and in ``opmerge.reports``.
        question: what it asks, in one line.
    """

    module: str
    question: str

    @property
    def config(self) -> Any:
        """Class of its settings: ``Config()``, or ``Config.quick()`` for a demonstration."""
        return import_module(f"opmerge.studies.{self.module}").Config

    def run(self, config: Any, folder: Path, progress: ProgressBar) -> dict[str, Any]:
        """Compute the record; what the folder holds of an interrupted run is not done again."""
        record: dict[str, Any] = import_module(f"opmerge.studies.{self.module}").run(
            config, folder, progress
        )
        return record

    def finding(self, record: Mapping[str, Any]) -> str:
        """The answer that a record gives, in a sentence."""
        finding: str = import_module(f"opmerge.reports.{self.module}").finding(record)
        return finding

    def page(self, record: Mapping[str, Any]) -> str:
        """The page of a record: a complete HTML document."""
        page: str = import_module(f"opmerge.reports.{self.module}").study_page(record)
        return page


STUDIES: Mapping[str, Study] = {
    "real-networks": Study(
        "real_networks", "Does the predicted order of merge plans hold for real networks?"
    ),
}
"""Every study by the name that the command line uses."""
