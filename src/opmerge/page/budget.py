"""The page of a plan for a budget: what to spend on what, and what that is forecast to leave.

All numbers on it are forecasts with 90 % intervals; nothing is proved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page import sentences
from opmerge.page.charts import LOOKS, Axis, Level, Series, curves, intervals
from opmerge.page.layout import Section, Table, draw_section, render_page
from opmerge.page.sentences import amount, number, percent
from opmerge.plans.drawing import recorded_plan
from opmerge.plans.outline import draw_text
from opmerge.plotting import BLUE, INK, ORANGE, figure_style, log_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

_OUTLINE_WIDTH = 40  # characters that fit a phone
_DASHED: Mapping[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 2))}


def budget_page(record: Record) -> str:
    """The HTML document of a record (``opmerge.planners.budget_record``)."""
    problem = record["problem"]
    told = " ".join([sentences.budget_sentence(record), sentences.tie_sentence(record)]).strip()
    return render_page(
        title=f"A budget for {problem['source']}, T = {problem['steps']}",
        answer=told,
        facts=_facts(record),
        sections=list(budget_sections(record)),
        settings=budget_settings(record),
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    best, budget, problem = record["best"], record["budget"], record["problem"]
    each = best["paired_rms"] / np.sqrt(budget["dimensions"])
    return [
        ("expected error of a sample (rms)", number(best["paired_rms"])),
        ("of one value", number(float(each))),
        ("of the teacher's own spread", percent(best["paired_rms"] / budget["output_spread"])),
        ("network evaluations", amount(best["cost"])),
        ("teacher's steps → student's", f"{problem['steps']} → {problem['student_steps']}"),
        ("merges", f"{best['merges']}"),
    ]


def budget_sections(record: Record, why: str = "") -> Iterator[Section]:
    """Frontier, iterations and other plans: all that is forecast, and why the plan is not that
    of the least, where the page does not say it."""
    best = record["best"]
    is_free = "free_step" in best
    if any(row["paired_rms"] for row in record["frontier"]):
        yield draw_section(
            "What a budget buys",
            "The least error that is forecast at each cost, as a share of the teacher's spread, "
            "one line for each number of student steps K; bands hold 90 %. Dashed: the budget. The "
            "diamond is the plan of this page"
            + (", whose free first step the lines have too where it gains." if is_free else "."),
            frontier_figure(record),
            frontier_table(record),
        )
    if best["merges"]:
        plan = recorded_plan(best)
        yield draw_section(
            "Where the iterations go",
            "Each line is one merge: the steps that its student jumps over, at the height of its "
            "iterations; the dot is where it reads. Long jumps have more to learn."
            + " Dashed: where one student hands over to the next." * (plan.student_steps > 1)
            + _free_step_told(best),
            iterations_figure(record),
            merge_table(record),
            draw_text(plan, _OUTLINE_WIDTH),
        )
    if not best["paired_rms"]:
        return  # K = T: the student is the teacher, whatever the strategy
    yield draw_section(
        "Plans at the same cost",
        "Forecast error as a share of the teacher's spread, with 90 % intervals; every strategy "
        "has its best size and its best split of the budget, but for progressive with equal "
        "iterations, as people run it. Intervals share what the law does not know: the table says "
        f"by how much two plans differ. {why}".rstrip(),
        strategies_figure(record),
        strategy_table(record),
    )


def _free_step_told(best: Record) -> str:
    """What the fit of a free first step takes; nothing of records that do not know it."""
    cost = best.get("free_step_cost")
    if not cost:
        return ""
    share = percent(cost / best["cost"])
    return f" The teacher runs that the free step is fitted to take {share} of the cost."


def frontier_figure(record: Record) -> Figure:
    """Forecast error against cost, a curve for every K, log-log, with bands."""
    spread, best, rows = record["budget"]["output_spread"], record["best"], record["frontier"]
    series = []
    counts = list(dict.fromkeys(row["student_steps"] for row in rows))
    for place, count in enumerate(counts):
        own = [row for row in rows if row["student_steps"] == count]
        error, low, high = (
            np.array([row[key] for row in own]) / spread for key in ("paired_rms", "low", "high")
        )
        look = LOOKS[place % len(LOOKS)]
        cost = [row["cost"] for row in own]
        is_seen = np.array(cost) * error > 0
        ends = {"low": low[is_seen], "high": high[is_seen], "band": len(counts) <= len(LOOKS)}
        series.append(Series(f"K = {count}", np.array(cost)[is_seen], error[is_seen], look, **ends))
    if best["paired_rms"] > 0:
        look = {"color": ORANGE, "marker": "D", "markersize": 7, "linestyle": "", "zorder": 5}
        error = np.array([best["paired_rms"] / spread])
        series.append(Series("this plan", [best["cost"]], error, look))
    return curves(
        series,
        Axis("network evaluations"),
        Axis("error / teacher's spread"),
        frontier_title(record),
        levels=[Level(x=record["budget"]["evaluations"], look=_DASHED)],
        height=3.2,
    )


def frontier_title(record: Record) -> str:
    """What four times the budget would buy, for as many student steps."""
    budget, count = record["budget"], record["problem"]["student_steps"]
    errors = {
        row["budget"] / budget["amount"]: row["paired_rms"]
        for row in record["frontier"]
        if row["student_steps"] == count
    }
    if not errors.get(1.0) or 4.0 not in errors:
        return "What other budgets would leave"
    less = 1 - errors[4.0] / errors[1.0]
    return f"At K = {count}, four times the budget is forecast to leave {percent(less)} less"


@figure_style()
def iterations_figure(record: Record) -> Figure:
    """Every merge as a line from where it starts to where it stops, at its iterations."""
    best = record["best"]
    counts = np.array(best["iterations"], dtype=np.float64)
    starts = [merge["boundaries"][0] for merge in best["merge_list"]]
    stops = [merge["boundaries"][-1] for merge in best["merge_list"]]
    merges = f"{best['merges']} merges" if best["merges"] > 1 else "One merge"
    figure, axes = new_figure(3.0, f"{merges}, {sentences.iteration_range(best['iterations'])}")
    axes.hlines(counts, stops, starts, color=BLUE, linewidth=1.4, alpha=0.75)
    axes.plot(starts, counts, "o", color=BLUE, markersize=3.5)
    for boundary in best["boundaries"][1:-1]:
        axes.axvline(boundary, **_DASHED)
    log_axis(axes.yaxis, counts.min() / 1.5, counts.max() * 1.5)
    steps = record["problem"]["steps"]
    axes.set_xlim(steps * 1.02, -0.02 * steps)
    axes.set(xlabel="step t (noise left, data right)", ylabel="iterations")
    return figure


def strategies_figure(record: Record) -> Figure:
    """Forecasts of the plan, the least and every strategy, with intervals."""
    spread = record["budget"]["output_spread"]
    entries = [
        (name, entry) for name, entry in sentences.compared(record) if entry["paired_rms"] > 0
    ]
    names = [name for name, _ in entries]
    columns = [
        np.array([entry[key] / spread for _, entry in entries])
        for key in ("paired_rms", "low", "high")
    ]
    is_best = np.array([name == "this plan" for name in names])
    series = []
    for chosen, look in ((is_best, {"color": ORANGE, "marker": "D"}), (~is_best, {"color": BLUE})):
        ends = [column[chosen] for column in columns]
        if chosen.any():
            places = np.flatnonzero(chosen)
            series.append(Series("", ends[0], places, look, ends[1], ends[2]))
    return intervals(series, names, Axis("error / teacher's spread"), strategies_title(record))


def strategies_title(record: Record) -> str:
    equal, best = record["equal"], record["best"]
    if equal is None or not best["paired_rms"]:
        return "Forecasts at the same cost"
    ratio = equal["paired_rms"] / best["paired_rms"]
    return f"Progressive with equal iterations errs {number(ratio)} times as much"


def strategy_table(record: Record) -> Table:
    """Forecasts of the plan and of others at the same cost, with their intervals."""
    spread, size = record["budget"]["output_spread"], record["budget"]["dimensions"]
    rows = [
        [
            name,
            number(entry["paired_rms"]),
            f"{number(entry['low'])} … {number(entry['high'])}",
            number(entry["paired_rms"] / float(np.sqrt(size))),
            percent(entry["paired_rms"] / spread),
            f"{entry['ratio_low']:.2f} … {entry['ratio_high']:.2f}",
            f"{len(entry['iterations'])}",
            f"{entry['cost']:,.0f}",
        ]
        for name, entry in sentences.compared(record)
    ]
    columns = ["plan", "error", "90 %", "a value", "of the spread", "ratio to the least, 90 %"]
    columns += ["merges", "network evaluations"]
    note = "Where the interval of the ratio contains 1, the difference is not worth it."
    return Table("Plans at the same cost", columns, rows, note)


def frontier_table(record: Record) -> Table:
    """What other budgets are forecast to leave."""
    rows = [
        [
            f"{row['student_steps']}",
            f"{row['cost']:,.0f}",
            number(row["paired_rms"]),
            f"{number(row['low'])} … {number(row['high'])}",
            f"{row['name']} ({row['merges']} merges)",
            f"{row['best']['name']} ({row['best']['merges']} merges)",
        ]
        for row in record["frontier"]
    ]
    columns = ["K", "network evaluations", "least error", "90 %", "of", "simplest that ties"]
    return Table("What other budgets buy", columns, rows)


def merge_table(record: Record) -> Table:
    """Every merge with its iterations."""
    best = record["best"]
    rows = []
    for merge, count in zip(best["merge_list"], best["iterations"], strict=True):
        start, *inner, stop = merge["boundaries"]
        rows.append([f"{start} → {stop}", f"{len(inner) + 1}", f"{count:,}"])
    columns = ["merge", "operators", "iterations"]
    return Table("Every merge, in the order of execution", columns, rows)


def budget_settings(record: Record) -> dict[str, Any]:
    """What the forecasts were made from."""
    return {
        "Budget": record["budget"],
        "Problem": record["problem"],
        "Notes": {"notes": record["best"]["notes"]},
        "Versions": record["versions"],
    }
