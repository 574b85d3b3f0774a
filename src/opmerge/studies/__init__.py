"""Studies: one question each, a typed configuration in, a record and a page out.

A study called ``some-name`` is two modules. ``opmerge.studies.some_name`` has

* ``Config``, a frozen dataclass that checks itself, with a class method ``quick``;
* ``run(config, runner)``, which returns the record: JSON values, with what is best read as a
  table under ``tables``: lists of flat mappings by name.

``opmerge.reports.some_name`` has, each made from the record alone,

* ``answer(record)``, an ``Answer``;
* ``facts(record)``, names and values of the numbers that matter most;
* ``sections(record)``, the sections of the page.

Neither is imported before it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from opmerge.reports.layout import Section
from opmerge.reports.study import Answer, study_page
from opmerge.studies.runner import Runner
from opmerge.versions import versions

__all__ = ["FORMAT", "STUDIES", "VERSION", "Runner", "Study"]

FORMAT = "opmerge.study"
VERSION = 1


@dataclass(frozen=True)
class Study:
    """A question, and where its answer is computed and told.

    Args:
        name: as the command line has it.
        question: what it asks, in one line.
        trains_networks: whether it needs the extra ``torch`` and hours rather than minutes; then
            it is no part of ``all``.
    """

    name: str
    question: str
    trains_networks: bool = False

    def config(self, quick: bool = False) -> Any:
        """Its settings, or those of a demonstration."""
        config = self._module("studies").Config
        return config.quick() if quick else config()

    def run(self, config: Any, runner: Runner) -> dict[str, Any]:
        """The record, JSON values; what the folder holds of an interrupted run is kept."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "study": self.name,
            "question": self.question,
            "settings": asdict(config),
            "versions": versions(),
            **self._module("studies").run(config, runner),
        }
        read_again: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
        return read_again

    def answer(self, record: Mapping[str, Any]) -> Answer:
        """The answer that a record gives."""
        answer: Answer = self._module("reports").answer(record)
        return answer

    def sections(self, record: Mapping[str, Any]) -> list[Section]:
        """The sections of the page, with their figures."""
        return list(self._module("reports").sections(record))

    def page(self, record: Mapping[str, Any]) -> str:
        """The page of a record: a complete HTML document."""
        facts = self._module("reports").facts(record)
        return study_page(record, self.answer(record), facts, self.sections(record))

    def _module(self, package: str) -> Any:
        return import_module(f"opmerge.{package}.{self.name.replace('-', '_')}")


STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study("phase", "Which plan is best at which data variance λ, and where does it change?"),
        Study("synthetic", "How far are the named strategies from the best plan, by λ and T?"),
        Study("spectra", "Which plan is best for real data, and what does a diagonal model cost?"),
        Study("ablation", "Does the time that each merge is trained move the transition?"),
        Study("dynamics", "Do students that are really trained end where the closed form says?"),
        Study("scaling", "What does each planner cost in steps T and dimensions d?"),
        Study("mixture", "What changes when the data are a mixture of Gaussians?"),
        Study("stabilisation", "Do weight averaging or timestep mixing shift the best plan?"),
        Study("better-than-teacher", "When is a student nearer to the data than its teacher?"),
        Study("curriculum", "How should a training budget be spread over the merges of a plan?"),
        Study("correlated-noise", "How far does theory hold when noise and data do not commute?"),
        Study("students", "How many steps should a student have, and where should they be?"),
        Study(
            "real-networks",
            "Does the predicted order of merge plans hold for real networks?",
            trains_networks=True,
        ),
        Study(
            "celeba",
            "Which plan is best in the latent space of images of faces?",
            trains_networks=True,
        ),
    )
}
"""Every study by the name that the command line uses."""
