"""The page of the study `better-than-teacher`: when a student is nearer to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.strategies import STYLES
from opmerge.page.study import Answer
from opmerge.plotting import GREY, INK, figure_style, log_axis, new_figure, set_title
from opmerge_studies.better_than_teacher.misfit_sections import (
    RULES,
    best_misfit,
    misfit_figure,
    misfit_sentences,
    misfit_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_STRATEGIES = ("vanilla", "progressive", "consistency", "boot")
_NOTICED = 1e-3  # relative gain below which nobody would notice


def answer(record: Record) -> Answer:
    """Where a student overtakes its teacher."""
    rows = _times(record, "operator-copy")
    reached = [row for row in rows if row["first"] is not None]
    below = [row for row in rows if row["eigenvalue"] <= 1]
    always = sum(row["first"] is not None for row in below)
    highest = max((row["eigenvalue"] for row in reached), default=0.0)
    copies = _times(record, "denoiser-copy")
    never = sum(row["first"] is None for row in copies)
    best = min(record["tables"]["spectra"], key=lambda row: _ratio(row, "best"))
    return Answer(
        finding=(
            f"Under operator copy a student is nearer to the data than its optimal teacher where "
            f"it overshoots by less than about twice the teacher's shortfall: in {always} of "
            f"{len(below)} cases with λ ≤ 1 within s = 100, and at no λ tried above "
            f"{highest:.3g}; under denoiser copy in {len(copies) - never} of {len(copies)} cases. "
            f"On {best['source']} the best plan found gains {percent(1 - _ratio(best, 'best'))}, "
            f"the best strategy {_best_strategy(record)}; over a teacher under capacity "
            f"{best_misfit(record)}."
        ),
        evidence=(*_evidence(record),),
        limits=(
            "Distance is W2 between Gaussians. What a student adds in directions that its teacher "
            "has lost is left-over noise of the right variance, not structure.",
            "The time must be chosen: gains vanish as exp(-2 s) in BOOT and vanilla, and before "
            "the first time the student is far worse than its teacher.",
            "On real spectra the best plan is the best found, not proved: the bound is beside it. "
            "Plain cosine schedule, gradient flow, the same s in each merge. Teachers under "
            "capacity are linear; their covariances need not commute with the data's.",
        ),
        overturned_by=(
            "A student nearer to the data whose excess lies outside 0 < e < log(2 exp(l) - 1).",
            "A student of an optimal teacher that starts from a copied denoiser and comes nearer "
            "to the data.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """Times and gains."""
    steps = _middle_steps(record)
    marks = _near(_times(record, "operator-copy", steps), 0.2)
    best = min(record["tables"]["spectra"], key=lambda row: _ratio(row, "best"))
    return [
        *(
            (f"s from which {row['strategy']} is nearer, λ = {row['eigenvalue']:.3g}, T = {steps}",
             _known(row["first"]))
            for row in marks
        ),
        (
            f"gain of the best plan found, {best['source']}, s = {best['time']:g}",
            percent(1 - _ratio(best, "best")),
        ),
    ]  # fmt: skip


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    steps = _middle_steps(record)
    yield draw_section(
        "Where students overtake",
        f"Optimisation time of each merge from which a strategy's student is nearer to the data "
        f"than its teacher, T = {steps}, operator copy. It stays so above the line. Thin: where "
        "vanilla's student has the data's variance.",
        lambda: _map_figure(record, steps),
        _times_table(record),
    )
    for source, rows in _by_source(record):
        yield draw_section(
            f"Spectrum of {source}",
            f"W2 to the data over the teacher's, T = {rows[0]['num_steps']}; below 1 the student "
            "is nearer. Dotted: what no plan goes below.",
            lambda source=source, rows=rows: _spectrum_figure(source, rows),  # type: ignore[misc]
            _spectrum_table(record, source),
        )
    for rule in RULES:
        yield draw_section(
            f"Teachers under capacity, {rule.replace('-', ' ')}",
            "W2 to the data over the teacher's at the best s of each strategy: below 1 the student "
            "is nearer. Means over draws where samples are drawn.",
            lambda rule=rule: misfit_figure(record, rule),  # type: ignore[misc]
            misfit_table(record, rule),
        )


def _evidence(record: Record) -> Iterator[str]:
    points = record["tables"]["points"]
    wrong = sum(row["disagree"] for row in points)
    yield (
        "With l = log(√λ / teacher's deviation), |exp(e) - exp(l)| < |1 - exp(l)| if and only if "
        f"0 < e < log(2 exp(l) - 1); compared with W2 itself it is wrong at {wrong} of "
        f"{len(points) * len(_STRATEGIES)} points (λ, s, T, rule, strategy)."
    )
    growth = record["tables"]["growth"]
    if len(growth) > 1:
        before, last = growth[-2:]
        steps = last["num_steps"], before["num_steps"]
        yield (
            f"The time of vanilla in closed form, log(a / (2 (exp(l) - 1))) / 2 with a = "
            f"1/P(0, T-1) - 1: at λ = {last['eigenvalue']:g} it is {growth[0]['first']:.4g} at "
            f"T = {growth[0]['num_steps']}, and from T = {steps[1]} to {steps[0]} it rises by "
            f"{last['first'] - before['first']:.4f}, ½ log {steps[0] / steps[1]:g} being "
            f"{np.log(steps[0] / steps[1]) / 2:.4f}."
        )
    lead = [
        (min(row["first"] or np.inf for row in here), _named(here, "boot"))
        for here in _groups(_times(record, "operator-copy"), "num_steps", "eigenvalue")
        if here[0]["eigenvalue"] < 1
    ]
    ahead = sum(boot is not None and boot <= least for least, boot in lead)
    yield (
        f"Of the strategies BOOT overtakes first at {ahead} of {len(lead)} λ < 1 and T: it stays "
        "nearest to the teacher. Once all have overtaken, the worst copies gain most."
    )
    far = [row for row in points if row["merge_rule"] == "operator-copy"]
    gained = [row for row in far if row["best"] < row["teacher"] * (1 - _NOTICED)]
    top = max((row["eigenvalue"] for row in gained), default=0.0)
    yield (
        f"The best plan for the data is nearer than the teacher at {len(gained)} of {len(far)} "
        f"points (λ, s, T), up to λ = {top:.3g}; where the data's variance lies between the "
        "extremes of all plans it comes as near as one likes."
    )
    yield from misfit_sentences(record)


@figure_style()
def _map_figure(record: Record, steps: int) -> Figure:
    figure, axes = new_figure(height=3.4)
    rows = _times(record, "operator-copy", steps)
    reached = [row["eigenvalue"] for row in rows if row["first"] is not None]
    set_title(
        figure,
        f"Trained long enough, students overtake their teacher up to λ = {max(reached):.3g}"
        if reached
        else "No student overtakes its teacher",
    )
    for name in _STRATEGIES:
        known = sorted(
            (row["eigenvalue"], row["first"])
            for row in rows
            if row["strategy"] == name and row["first"] is not None
        )
        axes.plot(*zip(*known, strict=True), **STYLES[name], markersize=3.5, label=name)
    perfect = sorted(
        (row["eigenvalue"], row["perfect"])
        for row in rows
        if row["strategy"] == "vanilla" and row["perfect"] is not None
    )
    axes.plot(*zip(*perfect, strict=True), color=STYLES["vanilla"]["color"], linewidth=0.7)
    axes.axvline(1.0, color=GREY, linestyle=(0, (1, 1)), linewidth=0.8)
    values = [row["eigenvalue"] for row in rows]
    log_axis(axes.xaxis, min(values), max(values))
    log_axis(axes.yaxis, 0.1, 100.0)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("optimisation time of a merge, s")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def _spectrum_figure(source: str, rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(height=3.2)
    best = min(rows, key=lambda row: _ratio(row, "best"))
    set_title(
        figure,
        f"{source}: the best plan found is up to {percent(1 - _ratio(best, 'best'))} nearer than "
        f"the teacher, at s = {best['time']:g}"
        if _ratio(best, "best") < 1
        else f"{source}: no student is nearer than its teacher",
    )
    seconds = [row["time"] for row in rows]
    for name in _STRATEGIES:
        ratios = [_ratio(row, name) for row in rows]
        axes.plot(seconds, ratios, **STYLES[name], markersize=4, label=name)
    axes.plot(
        seconds,
        [_ratio(row, "best") for row in rows],
        color=INK,
        linestyle=(0, (5, 1)),
        marker=".",
        label="best found",
    )
    bounds = [_ratio(row, "lower_bound") for row in rows]
    axes.plot(seconds, bounds, color=INK, linestyle=(0, (1, 1)), label="bound")
    axes.axhline(1.0, color=GREY, linewidth=0.7)
    log_axis(axes.xaxis, seconds[0] / 1.1, seconds[-1] * 1.1)
    log_axis(axes.yaxis, 0.5, 20.0)
    axes.set_xlabel("optimisation time of a merge, s")
    axes.set_ylabel("W2 to the data, teacher = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


def _times_table(record: Record) -> Table:
    return make_table(
        "Optimisation times",
        ("T", "λ", "strategy", "nearer from", "until", "data's variance at"),
        [
            (
                str(row["num_steps"]),
                f"{row['eigenvalue']:.4g}",
                row["strategy"],
                *(_known(row[key]) for key in ("first", "until", "perfect")),
            )
            for row in _times(record, "operator-copy")
        ],
        "From 0.01 means from the shortest time tried on. No time ends: –.",
    )


def _spectrum_table(record: Record, source: str) -> Table:
    rows = [row for row in record["tables"]["spectra"] if row["source"] == source]
    keys = ("teacher", *_STRATEGIES, "hybrid", "best", "lower_bound")
    return make_table(
        f"W2 to the data, {source}",
        ("T", "s", "teacher", *_STRATEGIES, "hybrid", "best", "bound"),
        [
            (str(row["num_steps"]), f"{row['time']:g}", *(number(row[key]) for key in keys))
            for row in rows
        ],
        "Hybrid: the best of 2 to 32 last steps one at a time.",
    )


def _best_strategy(record: Record) -> str:
    best = min(record["tables"]["spectra"], key=lambda row: _ratio(row, "best"))
    here = [
        row
        for row in record["tables"]["spectra"]
        if (row["source"], row["num_steps"]) == (best["source"], best["num_steps"])
    ]
    ratio, name = min((_ratio(row, name), name) for row in here for name in _STRATEGIES)
    return f"{percent(1 - ratio)} ({name})" if ratio < 1 else "nothing"


def _times(record: Record, rule: str, steps: int | None = None) -> list[Row]:
    return [
        row
        for row in record["tables"]["times"]
        if row["merge_rule"] == rule and steps in (None, row["num_steps"])
    ]


def _near(rows: Sequence[Row], eigenvalue: float) -> list[Row]:
    """The rows of the λ that is nearest."""
    nearest = min(rows, key=lambda row: abs(row["eigenvalue"] - eigenvalue))["eigenvalue"]
    return [row for row in rows if row["eigenvalue"] == nearest]


def _named(rows: Sequence[Row], name: str) -> float | None:
    value = next(row["first"] for row in rows if row["strategy"] == name)
    return None if value is None else float(value)


def _groups(rows: Sequence[Row], *keys: str) -> list[list[Row]]:
    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in keys)

    return [list(run) for _, run in groupby(sorted(rows, key=key), key=key)]


def _by_source(record: Record) -> list[tuple[str, list[Row]]]:
    """Of each source the rows of the T that the map shows."""
    steps = _middle_steps(record)
    rows = [row for row in record["tables"]["spectra"] if row["num_steps"] == steps]
    return [(source, list(run)) for source, run in groupby(rows, key=lambda row: row["source"])]


def _middle_steps(record: Record) -> int:
    steps = sorted({row["num_steps"] for row in _times(record, "operator-copy")})
    return int(steps[len(steps) // 2])


def _ratio(row: Row, key: str) -> float:
    return float(row[key] / row["teacher"])


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
