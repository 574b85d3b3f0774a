"""Tables and laws that tests of forecasts and budgets share."""

import numpy as np

from opmerge import cosine_schedule, eigenvalue_spectrum
from opmerge.forecast import MergeLaw, TeacherTable, linear_table

__all__ = ["EIGENVALUES", "a_law", "a_table"]

EIGENVALUES = 3.0 * np.arange(1, 33) ** -1.5


def a_table(num_steps: int) -> TeacherTable:
    """Of a power law, as images have, and the cosine schedule."""
    return linear_table(eigenvalue_spectrum(EIGENVALUES), cosine_schedule(num_steps))


def a_law(table: TeacherTable, seed: int = 0, **changed: float) -> MergeLaw:
    """A law in which every term counts."""
    rates = np.random.default_rng(seed).uniform(0.3, 9.0, len(table.sizes)).tolist()
    numbers = {"first": 0.7, "behind": 0.4, "shape": 0.7}
    shares = {"share_exponent": 0.6, "onset": 60.0}
    return MergeLaw(tuple(rates), **{**numbers, **shares, **changed})
