"""The page of the study `students`: what each student step is worth, and where it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opmerge.page.charts import DASHED, Axis, Level, curves, series_by, spans
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import Page, frame, label, table
from opmerge_studies.shared.strategies import CANONICAL

if TYPE_CHECKING:
    import pandas as pd

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_MOVED = 1.05
_COLUMNS = {
    "data": "called:s",
    "K": "student_steps:s",
    "best": "best",
    "bound": "lower_bound",
    "uniform": "uniform",
    "moved": "moved",
    "boundaries": "boundaries:s",
}
_NOTE = "Uniform: the best named strategy on uniform windows; moved: on the planner's."


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, rows = record["settings"], _numbers(record)
    times = settings["merge_times"]
    groups = dict(iter(rows.groupby(["objective", "merge_time"])))
    main = groups["teacher", times[-1]]
    several = main[main.student_steps > 1]
    whole = main[main.student_steps == settings["student_steps"][-1]]
    to_data = rows[rows.objective == "data"]
    nearest = to_data.loc[to_data.groupby("source", sort=False).ratio.idxmin()]
    moved = several.moved / several.best
    values = dict(
        settings,
        last=settings["student_steps"][-1],
        time=times[-1],
        several=several,
        whole=whole,
        hurt=several.hurts.sum(),
        most=whole.loc[whole.gain.idxmax()],
        least=whole.loc[whole.gain.idxmin()],
        worst=several.nlargest(1, "over").assign(moved=moved.max() - 1),
        nearest=nearest,
        unproved=(rows.lower_bound < rows.best * (1 - 1e-6)).sum(),
        count=len(rows),
    )
    claims = {
        "more-steps-help": count(several.planned < 1 - _EQUAL),
        "uniform-no-better": count(several.over >= 1 - _EQUAL),
        "boundaries-carry-the-gain": count(moved <= _MOVED),
        "nearer-than-teacher": count(nearest.ratio < 1 - _EQUAL),
    }
    steps = settings["student_steps"]
    ticks = {count: str(count) for count in steps}
    axis = Axis("steps of the student, K", (steps[0] / 1.15, steps[-1] * 1.15), ticks=ticks)

    def sections() -> Iterator[Section]:
        for time in reversed(times):
            yield _error_section(groups["teacher", time], axis, time)
        if len(several):
            yield _window_section(several, settings, times[-1])
        for time in times:
            yield _data_section(groups["data", time], axis, time)

    return Page(values, claims, sections())


def _numbers(record: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the record, each with what the page says of it."""
    rows = frame(record, "students")
    one = rows.groupby(["objective", "merge_time", "source"]).best.transform("first")
    edges = rows.boundaries.str.split().map(lambda cuts: [int(cut) for cut in cuts])
    uniform = rows[list(CANONICAL)].min(axis=1)
    return rows.assign(
        called=rows.source.map(label),
        uniform=uniform,
        over=uniform / rows.best,
        gain=one / rows.best,
        planned=rows.best / one,
        on_uniform=uniform / one,
        ratio=rows.best / rows.teacher_to_data,
        hurts=(rows.student_steps > 1) & (uniform > one),
        edges=edges,
        handovers=edges.map(len) - 2,
        noisy=edges.map(lambda cuts: sum(cut >= cuts[0] / 2 for cut in cuts[1:-1])),
    )


def _error_section(rows: pd.DataFrame, x: Axis, time: float) -> Section:
    several = rows[rows.student_steps > 1]
    planned = series_by(rows, "called", "student_steps", "planned")
    thin: dict[str, Any] = {"linestyle": DASHED, "linewidth": 0.9}
    uniform = series_by(rows, "called", "student_steps", "on_uniform", **thin)
    return draw_section(
        f"Error by number of steps, s = {time:g}",
        "W2 to the teacher as a multiple of that of the best one-step student. Solid: the "
        "planner's windows; dashed: the best named strategy on uniform windows.",
        curves(
            planned + [replace(each, label="") for each in uniform],
            x,
            Axis("W2 to the teacher, one step = 1", margin=2),
            f"On uniform windows {several.hurts.sum()} of {len(several)} students err more than "
            "one step does",
            height=3.4,
        ),
        table(f"W2 to the teacher at s = {time:g}", rows, _COLUMNS, _NOTE),
    )


def _window_section(rows: pd.DataFrame, settings: Mapping[str, Any], time: float) -> Section:
    """The section on where the steps of the best student of a middle K > 1 stand."""
    counts, total = rows.student_steps.unique(), settings["num_steps"]
    steps = int(counts[len(counts) // 2])
    own = rows[rows.student_steps == steps]
    uniform = [total - round(total * k / steps) for k in range(steps + 1)]
    alike = (own.over <= 1 + _EQUAL).sum()
    return draw_section(
        "Where the steps are",
        f"The {steps} windows of the best student, from noise (left) to data (right), each with "
        f"its number of teacher steps; s = {time:g}. At the bottom: uniform windows. Where these "
        "are as good, those drawn are one choice of many.",
        spans(
            {**dict(zip(own.called, own.edges, strict=True)), "uniform": uniform},
            f"Uniform windows are as good as any for {alike} of {len(own)} data sets",
            "teacher step t, noise to data",
        ),
    )


def _data_section(rows: pd.DataFrame, x: Axis, time: float) -> Section:
    nearer = (rows.ratio < 1 - _EQUAL).sum()
    return draw_section(
        f"Distance to the data, s = {time:g}",
        "W2 to the data of the student planned for it, as a multiple of the teacher's own.",
        curves(
            series_by(rows, "called", "student_steps", "ratio"),
            x,
            Axis("W2 to the data, teacher = 1"),
            f"{nearer} of {len(rows)} students are nearer to the data than teachers",
            levels=[Level(y=1.0)],
            height=3.2,
        ),
        table(f"W2 to the data at s = {time:g}", rows, _COLUMNS, _NOTE),
    )
