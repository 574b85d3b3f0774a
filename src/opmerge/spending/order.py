"""What a run is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.settings.commands import SpendingOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum
from opmerge.spending.prices import Prices

Report = Callable[[str, float, float], None]
"""Told what is done, how much of it, and of how much."""


@dataclass(frozen=True, eq=False)
class Order:
    """One budget for one teacher.

    Args:
        inputs: data in the teacher's units.
        spectrum: theirs, with eigenvectors.
        asked: the shares of the budget, the student's steps, and the folder that keeps every part.
        config: of all trainings, but for their iterations.
        learning_rates: among which the pilot chooses; the first without one. By default that of the
            settings alone.
    """

    teacher: Teacher
    inputs: DataInputs
    spectrum: Spectrum
    asked: SpendingOptions
    config: DistillationConfig
    accelerator: Accelerator
    prices: Prices
    learning_rates: Sequence[float] = ()
    report: Report = lambda what, done, total: None
    warn: Callable[[str], None] = lambda line: None

    @property
    def folder(self) -> Path:
        """That keeps every part."""
        return self.asked.output_dir
