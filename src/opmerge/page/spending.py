"""The page of a run: what the budget was spent on, what was expected of it, and what it left.

Forecasts and measurements stand side by side. What was trained besides had the same total.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page import sentences
from opmerge.page.budget import budget_sections, budget_settings
from opmerge.page.charts import Axis, Series, intervals
from opmerge.page.layout import Section, Table, draw_section, render_page
from opmerge.page.sentences import amount, number, percent
from opmerge.plans.drawing import recorded_plan
from opmerge.plans.outline import plan_phrase
from opmerge.plotting import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

COLUMNS = ["plan", "measured (95 %)", "expected (90 %)", "a value", "of the spread", "total cost"]
COLUMNS += ["merges", "iterations", "seconds"]
"""Heads of ``rows``."""


def spending_page(record: Record) -> str:
    """The HTML document of a record (``opmerge.spending.spending_record``)."""
    problem = record["problem"]
    return render_page(
        title=f"{record['run']['budget']} spent on {problem['source']}, T = {problem['steps']}",
        answer=answer(record),
        facts=_facts(record),
        sections=list(_sections(record)),
        settings={"Run": record["run"], **budget_settings(record)},
    )


def answer(record: Record) -> str:
    """What to spend the budget on, what was expected and what was measured, in a few sentences."""
    best, run, kept = record["best"], record["run"], record["trained"][0]
    planning = percent((run["calibration"] + run["pilot"]) / run["amount"])
    phrase = plan_phrase(recorded_plan(best))
    unknown = sentences.unknown_phrase(run.get("not_foretold", ()))  # which older records lack
    told = [
        f"Spend {run['budget']} like this: {planning} on planning; then "
        f"{phrase[0].lower()}{phrase[1:]}, {sentences.iteration_range(best['iterations'])} at a "
        f"learning rate of {run['learning_rate']:g}. Expected error "
        f"{sentences.forecast_phrase(record, best)}{unknown}; "
        f"measured {interval_told(kept['measured'])}{_outside(kept)}."
    ]
    ratios = [
        f"{each['name']} {number(each['measured']['value'] / kept['measured']['value'])} times"
        for each in record["trained"][1:]
        if any(each["iterations"])
    ]
    if ratios:
        told.append(f"For the same total, as people run them, {' and '.join(ratios)} that error.")
    return " ".join(told)


def rows(record: Record) -> list[list[str]]:
    """A row of text for each that was trained: name, measured, forecast, cost, merges."""
    spread, size = record["budget"]["output_spread"], record["budget"]["dimensions"]
    return [
        [
            each["name"],
            interval_told(each["measured"]),
            "–" if each["forecast"] is None else interval_told(each["forecast"]),
            number(each["measured"]["value"] / float(np.sqrt(size))),
            percent(each["measured"]["value"] / spread),
            amount(each["total"]),
            f"{each['merges']}",
            sentences.iteration_range(each["iterations"]),
            f"{each['seconds']:.0f}",
        ]
        for each in record["trained"]
    ]


def interval_told(interval: Mapping[str, float]) -> str:
    """A number with the ends of its interval."""
    value, low, high = (number(interval[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} – {high})"


def _facts(record: Record) -> list[tuple[str, str]]:
    best, budget, problem = record["trained"][0], record["budget"], record["problem"]
    error, run = best["measured"]["value"], record["run"]
    return [
        ("measured error of a sample (rms)", number(error)),
        ("expected", number(best["forecast"]["value"])),
        ("of one value", number(error / float(np.sqrt(budget["dimensions"])))),
        ("of the teacher's own spread", percent(error / budget["output_spread"])),
        (
            "of the budget went to calibration and pilot",
            percent((run["calibration"] + run["pilot"]) / run["amount"]),
        ),
        ("teacher's steps → student's", f"{problem['steps']} → {problem['student_steps']}"),
    ]


def _sections(record: Record) -> Iterator[Section]:
    if record["pictures"]:
        pictures = [(name, png) for name, png in record["pictures"].items()]
        yield Section(
            "Samples",
            "Each row from equal noise: the closer a student's row to the teacher's, the better.",
            pictures=pictures,
            is_wide=True,
        )
    yield draw_section(
        "Expected and measured",
        "Error of a sample against the teacher's from equal noise, as a share of the teacher's own "
        "spread. All had the same total, the plan's calibration counted; the closed form alone "
        "costs next to nothing. A forecast is given where the law holds: with the settings that it "
        "was calibrated for.",
        measured_figure(record),
        Table("What was trained", COLUMNS, rows(record), is_open=True),
    )
    is_piloted = record["run"]["pilot"] > 0  # by which the plan was chosen then
    yield from budget_sections(record, "" if is_piloted else sentences.tie_sentence(record))


def measured_figure(record: Record) -> Figure:
    """Measured and expected errors with their intervals, a line each."""
    spread, trained = record["budget"]["output_spread"], record["trained"]

    def series(key: str, label: str, look: Mapping[str, Any]) -> Series:
        known = [(place, each[key]) for place, each in enumerate(trained) if each[key] is not None]
        keys = ("value", "low", "high")
        ends = [np.array([told[key] for _, told in known]) / spread for key in keys]
        return Series(label, ends[0], [place for place, _ in known], look, ends[1], ends[2])

    expected = series("forecast", "expected", {"color": BLUE, "marker": "o"})
    measured = series("measured", "measured", {"color": ORANGE, "marker": "D"})
    names = [each["name"] for each in trained]
    return intervals([expected, measured], names, Axis("error / teacher's spread"), _title(record))


def _title(record: Record) -> str:
    best = record["trained"][0]
    ratio = best["measured"]["value"] / best["forecast"]["value"]
    return f"The plan left {number(ratio)} times what was expected of it{_outside(best)}"


def _outside(entry: Record) -> str:
    """On which side of its forecast's interval a measured error lies; empty within."""
    error, expected = entry["measured"]["value"], entry["forecast"]
    if expected["low"] <= error <= expected["high"]:
        return ""
    return f", {'above' if error > expected['high'] else 'below'} the interval that was expected"
