"""Forecasts: what a merge plan leaves on a real network, from teacher passes and a few probes.

``TeacherTable`` says what the teacher alone determines: how far each merge's student starts from
its target, and what an error grows to. ``MergeLaw`` says what training leaves of such a start.
``forecast`` composes the two over the merges of a plan (THEORY 10). No torch is needed.
"""

from opmerge.forecast.composition import Forecast, forecast
from opmerge.forecast.files import CalibrationFile, read_calibration, read_table, write_table
from opmerge.forecast.fit import LawFit, MergeProbe, fit_law
from opmerge.forecast.law import DEFAULT_PRIOR, LAW_PRIORS, PRIORS, FittedLaw, LawPrior, MergeLaw
from opmerge.forecast.table import TeacherTable, linear_table
from opmerge.forecast.trials import Trial, law_after

__all__ = [
    "DEFAULT_PRIOR",
    "LAW_PRIORS",
    "PRIORS",
    "CalibrationFile",
    "FittedLaw",
    "Forecast",
    "LawFit",
    "LawPrior",
    "MergeLaw",
    "MergeProbe",
    "TeacherTable",
    "Trial",
    "fit_law",
    "forecast",
    "law_after",
    "linear_table",
    "read_calibration",
    "read_table",
    "write_table",
]
