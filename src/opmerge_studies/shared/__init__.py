"""What rooms share: the study itself, sweeps that resume, and the theory that several need."""

from opmerge_studies.shared.runner import Cell, Runner, grid, rows_of
from opmerge_studies.shared.study import Study

__all__ = ["Cell", "Runner", "Study", "grid", "rows_of"]
