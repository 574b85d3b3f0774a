"""The page of the study `students`: what each student step is worth, and where it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from opmerge.page.charts import DASHED, Axis, Level, chart, series_by, spans
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import Page, frame, heads, label, table
from opmerge_studies.shared.strategies import CANONICAL

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_MOVED = 1.05
_THIN: dict[str, Any] = {"linestyle": DASHED, "linewidth": 0.9}
_COLUMNS = heads("data=called:s", "K=student_steps:s", "best", "bound=lower_bound", "uniform")
_COLUMNS |= heads("moved", "boundaries:s")
_NOTE = "Uniform: the best named strategy on uniform windows; moved: on the planner's."


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, rows = record["settings"], frame(record, "students")
    one = rows.groupby(["objective", "merge_time", "source"]).best.transform("first")
    edges = rows.boundaries.str.split().map(lambda cuts: [int(cut) for cut in cuts])
    uniform = rows[list(CANONICAL)].min(axis=1)
    rows = rows.assign(
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
    groups = dict(iter(rows.groupby(["objective", "merge_time"])))
    main = groups["teacher", settings["merge_times"][-1]]
    several = main[main.student_steps > 1]
    whole = main[main.student_steps == settings["student_steps"][-1]]
    to_data = rows[rows.objective == "data"]
    nearest = to_data.loc[to_data.groupby("source", sort=False).ratio.idxmin()]
    moved = several.moved / several.best
    values = dict(
        settings,
        several=several,
        whole=whole,
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
    return Page(values, claims, _sections(settings, groups, several))


def _sections(
    settings: Mapping[str, Any], groups: Mapping[Any, pd.DataFrame], several: pd.DataFrame
) -> Iterator[Section]:
    times, counts, total = (settings[key] for key in ("merge_times", "student_steps", "num_steps"))
    ticks = {steps: str(steps) for steps in counts}
    axis = Axis("steps of the student, K", (counts[0] / 1.15, counts[-1] * 1.15), ticks=ticks)
    for time in reversed(times):
        rows = groups["teacher", time]
        planned = series_by(rows, "called", "student_steps", "planned")
        uniform = series_by(rows, "called", "student_steps", "on_uniform", **_THIN)
        yield chart(
            f"Error by number of steps, s = {time:g}",
            "W2 to the teacher as a multiple of that of the best one-step student. Solid: the "
            "planner's windows; dashed: the best named strategy on uniform windows.",
            planned + [replace(each, label="") for each in uniform],
            axis,
            Axis("W2 to the teacher, one step = 1", margin=2),
            f"On uniform windows {rows.hurts.sum()} of {(rows.student_steps > 1).sum()} students "
            "err more than one step does",
            table(f"W2 to the teacher at s = {time:g}", rows, _COLUMNS, _NOTE),
            height=3.4,
        )
    if len(several):
        steps = several.student_steps.unique()[several.student_steps.nunique() // 2]
        own = several[several.student_steps == steps]
        edges = dict(zip(own.called, own.edges, strict=True))
        edges["uniform"] = [total - round(total * k / steps) for k in range(steps + 1)]
        yield draw_section(
            "Where the steps are",
            f"The {steps} windows of the best student, from noise (left) to data (right), each "
            f"with its number of teacher steps; s = {times[-1]:g}. At the bottom: uniform windows. "
            "Where these are as good, those drawn are one choice of many.",
            spans(
                edges,
                f"Uniform windows are as good as any for {(own.over <= 1 + _EQUAL).sum()} of "
                f"{len(own)} data sets",
                "teacher step t, noise to data",
            ),
        )
    for time in times:
        rows = groups["data", time]
        yield chart(
            f"Distance to the data, s = {time:g}",
            "W2 to the data of the student planned for it, as a multiple of the teacher's own.",
            series_by(rows, "called", "student_steps", "ratio"),
            axis,
            Axis("W2 to the data, teacher = 1"),
            f"{(rows.ratio < 1 - _EQUAL).sum()} of {len(rows)} students are nearer to the data "
            "than teachers",
            table(f"W2 to the data at s = {time:g}", rows, _COLUMNS, _NOTE),
            levels=[Level(y=1.0)],
            height=3.2,
        )
