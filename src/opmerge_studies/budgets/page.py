"""The page of the study `budgets`: forecasts beside measured errors, and what planning gains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import DASHED, LOOKS, Axis, Series, chart, intervals
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import Page, frame, heads, table
from opmerge.plans.drawing import recorded_plan
from opmerge.plans.outline import plan_phrase
from opmerge.plotting import BLUE, GREEN, GREY, INK, ORANGE
from opmerge_studies.budgets import PLANNED

Record = Mapping[str, Any]

_FACTOR = 1.3  # how far a forecast may be from the measured error
_WORTH = 1.05  # times the best hand plan's error that the planner's may have
_RHO, _PAIRS, _CELLS = 0.95, 0.95, 0.9  # that claims need
STANDINGS = ("best", "tied", "worse")
_ALL = "all"  # in the place of K
_PLAN_LOOK = {"color": INK, "marker": "*", "markersize": 9}
_AGREEMENT_COLUMNS = heads(
    *("K=student_steps:s", "seed=seed:s", "plans=plans:s", "ρ=spearman:.2f"),
    *("ρ at equal cost=spearman_at_cost:.2f", "pairs told apart=apart:s", "in that order=right:s"),
    *("within 1.3=close:s", "in the interval=covered:s"),
    "forecast / measured, 5, 50, 95 %=ratio_05…ratio_50…ratio_95:.2f",
)
_AGREEMENT_NOTE = (
    "ρ: Spearman's, over all plans and budgets; at equal cost: the mean of that over the plans of "
    "one K and budget. Pairs told apart: forecast to differ by more than the 90 % interval of the "
    "ratio of their errors. In the interval: measured within the forecast's, of 90 %."
)
_REGRET_COLUMNS = heads(
    *("K=student_steps:s", "budget", "seed=seed:s", "planner=planned:.3g", "best by hand=best:.3g"),
    *("which=best_hand:s", "regret=regret:+.1%", "vanilla:.3g"),
    *("run, planning paid=run:.3g", "its regret=run_regret:+.1%", "for planning=run_planning:%"),
)
_REGRET_NOTE = (
    "Error: root mean square of student minus teacher from equal noise. By hand: the plans of the "
    "study, each with its best split. Run: `opmerge run` with the same budget, from which it pays "
    "for its own calibration and pilot."
)
_WRONG_COLUMNS = heads(
    *("plan", "K=student_steps:s", "cells=cells:s", "measured / forecast=ratio:.2f"),
    *("range=low…high:.2f", "within 1.3=close:%"),
)
_PAIR_COLUMNS = heads(
    *("forecast better=better:s", "than=worse:s"),
    *(
        "forecasts=forecast_better…forecast_worse:.3g",
        "measured=measured_better…measured_worse:.3g",
    ),
)
_CELL_COLUMNS = heads(
    *("plan", "K=student_steps:s", "budget", "seed=seed:s", "measured:.4g"),
    *("95 %=measured_low…measured_high:.3g", "forecast:.3g"),
    *("90 %=forecast_low…forecast_high:.3g", "merges=merges:s", "iterations=iterations:s"),
    *("sliced W2=sliced_w2:.3g", "Fréchet=frechet:.3g"),
    *("cost=cost:.4g", "seconds=seconds:.0f"),
)
_DISTANCES = ("sliced_w2", "frechet")  # of samples; earlier records have none
_PLAN_COLUMNS = heads("plan", "K=student_steps:s", "budget", "iterations=told:s", "merges=words:s")


def page(record: Record) -> Page:
    """Numbers, claims and sections of a record."""
    cells, regret = frame(record, "cells"), frame(record, "regret")
    agreement = frame(record, "agreement")
    cells = cells.reindex(columns=[*cells, *(each for each in _DISTANCES if each not in cells)])
    cells["ratio"] = cells.measured / cells.forecast
    cells["is_close"] = cells.ratio.between(1 / _FACTOR, _FACTOR)
    cells["is_covered"] = cells.measured.between(cells.forecast_low, cells.forecast_high)
    whole = agreement[agreement.student_steps == agreement.student_steps.iloc[-1]]
    wrong = _by_plan(cells)
    reversed_pairs = pd.DataFrame(record["tables"]["reversed"])
    values = {
        **record,
        "cells": cells,
        "regret": regret,
        "whole": whole,
        "wrong": wrong[~wrong.ratio.between(1 / _FACTOR, _FACTOR)],
        "reversed": reversed_pairs,
        "alike": {each: _alike(cells, each) for each in _DISTANCES},
        "best_hands": regret.best_hand.value_counts(),
        "at_cost": agreement[agreement.student_steps == _ALL]
        if (agreement.student_steps == _ALL).any()
        else agreement,
        "runs": regret.dropna(subset="run") if "run" in regret else regret.iloc[:0],
        "against_vanilla": (regret.vanilla / regret.planned).dropna(),
        "standing": standing(regret, cells).value_counts().reindex(STANDINGS, fill_value=0),
    }
    runs = values["runs"]
    apart, right = int(whole.apart.sum()), int(whole.right.sum())
    claims = {
        "order": count(whole.spearman >= _RHO),
        "pairs": Count(right, apart, int(np.ceil(_PAIRS * apart))),
        "size": count(cells.is_close, _CELLS),
        "intervals": count(cells.is_covered, _CELLS),
        "regret": count(regret.regret <= _WORTH - 1, _CELLS),
        "regret-with-planning": count(runs.run_regret <= _WORTH - 1, _CELLS),
    }
    return Page(values, claims, _sections(record, cells, regret, agreement, wrong, reversed_pairs))


def standing(regret: pd.DataFrame, cells: pd.DataFrame) -> pd.Series:
    """Of each K, budget and seed, whether the planner's plan is best, tied or worse: its 95 %
    interval lies below that of the best measured hand plan, overlaps it, or lies above."""
    place = ["student_steps", "budget", "seed"]
    hands = regret[place].assign(plan=regret.best_hand)
    own, hand = regret[place].merge(cells[cells.is_planned]), hands.merge(cells)
    is_best, is_worse = own.measured_high < hand.measured_low, own.measured_low > hand.measured_high
    return pd.Series(np.select([is_best, is_worse], [STANDINGS[0], STANDINGS[2]], STANDINGS[1]))


def _alike(cells: pd.DataFrame, distance: str) -> float:
    """Spearman's ρ of the paired error and a distance of samples; NaN where none was measured."""
    return float(cells.measured.corr(cells[distance].astype(float), method="spearman"))


def _by_plan(cells: pd.DataFrame) -> pd.DataFrame:
    """By plan and K how measured errors lie beside forecasts, farthest from 1 first."""
    groups = cells.groupby(["plan", "student_steps"], sort=False)
    rows: pd.DataFrame = groups.agg(
        cells=("ratio", "size"),
        ratio=("ratio", lambda values: float(np.exp(np.log(values).mean()))),
        low=("ratio", "min"),
        high=("ratio", "max"),
        close=("is_close", "mean"),
    ).reset_index()
    order = np.log(rows.ratio).abs().sort_values(ascending=False, kind="stable").index
    return rows.loc[order].reset_index(drop=True)


def _sections(
    record: Record,
    cells: pd.DataFrame,
    regret: pd.DataFrame,
    agreement: pd.DataFrame,
    wrong: pd.DataFrame,
    reversed_pairs: pd.DataFrame,
) -> Iterator[Section]:
    yield _regret_section(regret)
    yield _forecast_section(cells, agreement)
    yield _wrong_section(wrong)
    if len(reversed_pairs):
        caption = (
            "Forecast to differ by more than the 90 % interval of the ratio of their errors, and "
            "measured in the opposite order with every seed."
        )
        made = table("Pairs in the wrong order", reversed_pairs, _PAIR_COLUMNS, is_open=True)
        yield Section("Pairs in the wrong order", caption, table=made, is_wide=True)
    made = table("Every student that was trained", cells, _CELL_COLUMNS)
    caption = (
        "Measured with an interval of 95 %, forecast with one of 90 %; all costs are evaluations. "
        "Distances are between the student's samples and the teacher's."
    )
    yield Section("Every student", caption, table=made, is_wide=True)
    plans = pd.DataFrame(
        {
            **{key: each[key] for key in ("plan", "student_steps", "budget")},
            "told": ", ".join(map(str, each["iterations"])),
            "words": plan_phrase(recorded_plan(each)),
        }
        for each in record["plans"]
    )
    made = table("Plans and their iterations, in the order of execution", plans, _PLAN_COLUMNS)
    yield Section("Plans", "What each budget was spent on.", table=made, is_wide=True)


def _regret_section(regret: pd.DataFrame) -> Section:
    """Errors of planner, best hand plan, run and vanilla, a line for each K and budget."""
    groups = regret.groupby(["student_steps", "budget"], sort=True)
    places = groups.size().reset_index()
    names = [f"K = {row.student_steps}, {row.budget:.3g}" for row in places.itertuples()]
    looks = {
        "planned": ("planner", {"color": BLUE, "marker": "o"}),
        "best": ("best by hand", {"color": ORANGE, "marker": "D"}),
        "run": ("opmerge run", {"color": GREEN, "marker": "^"}),
        "vanilla": ("vanilla", {"color": GREY, "marker": "s"}),
    }
    series = []
    for column, (label, look) in looks.items():
        known = groups[column].agg(["mean", "min", "max"]).reset_index(drop=True).dropna()
        if len(known):
            series.append(
                Series(label, known["mean"], known.index, look, known["min"], known["max"])
            )
    within = int((regret.regret <= _WORTH - 1).sum())
    title = f"The planner's plan is within 5 % of the best by hand in {within} of {len(regret)}"
    figure = intervals(series, names, Axis("measured error"), title, columns=2, line=0.45)
    caption = "All plans of a line had the same total cost. Bars: the range over seeds."
    made = table("Regret", regret, _REGRET_COLUMNS, _REGRET_NOTE, is_open=True)
    return draw_section("What planning gains", caption, figure, made)


def _forecast_section(cells: pd.DataFrame, agreement: pd.DataFrame) -> Section:
    """Measured against forecast errors, a look for each plan."""
    ends = np.array([cells.forecast.min() / 1.3, cells.forecast.max() * 1.3])
    look = {"color": GREY, "linestyle": DASHED, "linewidth": 0.9, "zorder": 0}
    series = [Series("", ends, ends, look, ends / _FACTOR, ends * _FACTOR, band=True)]
    hollow = [{**own, "fillstyle": "none"} for own in LOOKS]
    looks = [*LOOKS, *hollow]
    hand = cells[cells.plan != PLANNED].groupby("plan", sort=False)
    for number, (label, own) in enumerate(hand):
        dot = {**looks[number % len(looks)], "linestyle": ""}
        series.append(Series(str(label), own.forecast, own.measured, dot))
    planned = cells[cells.is_planned]
    dot = {**_PLAN_LOOK, "linestyle": ""}
    series.append(Series(PLANNED, planned.forecast, planned.measured, dot))
    title = f"{cells.is_close.sum()} of {len(cells)} forecasts are within a factor {_FACTOR}"
    made = table(
        "How far forecasts agree", agreement, _AGREEMENT_COLUMNS, _AGREEMENT_NOTE, is_open=True
    )
    return chart(
        "Forecast and measured",
        f"Dashed: equal; grey: within a factor {_FACTOR}. Star: the planner's plan. All K, budgets "
        "and seeds.",
        *(series, Axis("forecast error", margin=1.1), Axis("measured error", margin=1.1)),
        *(title, made),
        height=5.0,
    )


def _wrong_section(wrong: pd.DataFrame) -> Section:
    """Measured over forecast by plan and K."""
    names = list(dict.fromkeys(wrong.plan))
    series = []
    for (student_steps, own), look in zip(wrong.groupby("student_steps"), LOOKS, strict=False):
        places = [names.index(plan) for plan in own.plan]
        series.append(Series(f"K = {student_steps}", own.ratio, places, look, own.low, own.high))
    far = wrong[~wrong.ratio.between(1 / _FACTOR, _FACTOR)]
    title = f"{len(far)} of {len(wrong)} plans leave over 1.3 times more or less than forecast"
    figure = intervals(series, names, Axis("measured / forecast"), title, line=0.4)
    caption = "Points: geometric means over budgets and seeds; bars: the range of these."
    columns = table("By plan, farthest first", wrong, _WRONG_COLUMNS, is_open=True)
    return draw_section("Where the forecast is wrong", caption, figure, columns)
