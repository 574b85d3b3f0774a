"""Hypothesis strategies: eigenvalues over 12 decades, schedules, plans and whole problems."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from oracles import Setting

from opmerge.plans.tree import Plan
from opmerge.problem import MergeRule, Objective
from opmerge.schedules import (
    NoiseSchedule,
    cosine_schedule,
    equal_angle_schedule,
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)

__all__ = [
    "NAMED_SCHEDULES",
    "eigenvalue",
    "merge_times",
    "nested_trees",
    "plans",
    "retentions",
    "schedules",
    "spectra_of",
    "students",
    "theory_settings",
]

NAMED_SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "cosine": cosine_schedule,
    "nichol-dhariwal": nichol_dhariwal_schedule,
    "linear": linear_schedule,
    "scaled-linear": scaled_linear_schedule,
    "equal-angle:2.0": lambda num_steps: equal_angle_schedule(num_steps, 2.0),
}


def _power_of_ten(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda power: float(10.0**power))


eigenvalue = _power_of_ten(-6, 6) | st.floats(0.5, 2.5)
"""λ over 12 decades, often about the phase transition."""

merge_times = _power_of_ten(-1.3, 1.48)
"""s from 0.05 to 30."""

retentions = st.floats(0.0, 1.0)


def spectra_of(max_size: int = 6) -> st.SearchStrategy[tuple[float, ...]]:
    """Distinct eigenvalues, descending."""
    sets = st.sets(eigenvalue, min_size=1, max_size=max_size)
    return sets.map(lambda values: tuple(sorted(values, reverse=True)))


@st.composite
def schedules(draw: st.DrawFn, num_steps: int) -> NoiseSchedule:
    """A named schedule, or one of arbitrary angles between 0 and π/2, ends as they come."""
    named: list[Callable[[int], NoiseSchedule]] = [
        cosine_schedule,
        nichol_dhariwal_schedule,
        linear_schedule,
        scaled_linear_schedule,
        lambda steps: equal_angle_schedule(steps, 3.0),
    ]
    make = draw(st.sampled_from([*named, None]))
    if make is not None:
        return make(num_steps)
    # Angles on a grid of π/2000, so that no step is lost in rounding.
    marks = draw(
        st.lists(st.integers(0, 1000), min_size=num_steps + 1, max_size=num_steps + 1, unique=True)
    )
    angles = np.sort(marks) * (np.pi / 2000)
    return NoiseSchedule(np.maximum(np.cos(angles), 0.0), np.sin(angles))


@st.composite
def _cuts(draw: st.DrawFn, start: int, stop: int, least: int, most: int) -> list[int]:
    """start > … > stop in between ``least`` and ``most`` pieces."""
    inner = draw(
        st.sets(
            st.integers(stop + 1, start - 1),
            min_size=least - 1,
            max_size=min(most, start - stop) - 1,
        )
        if start - stop > 1
        else st.just(set())
    )
    return [start, *sorted(inner, reverse=True), stop]


@st.composite
def nested_trees(draw: st.DrawFn, start: int, stop: int = 0) -> Any:
    """A tree start → stop as nested lists."""
    if start - stop == 1:
        return start
    edges = draw(_cuts(start, stop, 2, start - stop))
    return [draw(nested_trees(above, below)) for above, below in pairwise(edges)]


@st.composite
def students(
    draw: st.DrawFn, num_steps: int, max_students: int = 3, min_students: int = 1
) -> list[Any]:
    """The trees of a plan as nested lists."""
    edges = draw(_cuts(num_steps, 0, min_students, max_students))
    return [draw(nested_trees(above, below)) for above, below in pairwise(edges)]


@st.composite
def plans(draw: st.DrawFn, max_steps: int = 12, max_students: int = 3) -> Plan:
    """A plan of 1 … max_steps steps."""
    num_steps = draw(st.integers(1, max_steps))
    return Plan.from_nested(draw(students(num_steps, max_students)))


@st.composite
def theory_settings(draw: st.DrawFn, num_steps: int, max_dimensions: int = 4) -> Setting:
    """A whole problem with this number of steps."""
    eigenvalues = draw(spectra_of(max_dimensions))
    size = len(eigenvalues)
    counts = draw(st.lists(st.integers(1, 1000), min_size=size, max_size=size))
    return Setting(
        draw(schedules(num_steps)),
        eigenvalues,
        tuple(counts),
        draw(merge_times),
        draw(st.sampled_from(get_args(MergeRule))),
        draw(st.sampled_from(get_args(Objective))),
    )
