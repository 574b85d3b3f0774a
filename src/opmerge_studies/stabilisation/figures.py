"""Figures of the study `stabilisation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.sentences import number
from opmerge.plotting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    figure_style,
    log_axis,
    new_figure,
    set_title,
)
from opmerge_studies.stabilisation.numbers import (
    SEQUENTIAL,
    crossing_shifts,
    operator_copy_losses,
    simulation_order,
    time_factors,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "comb_figure",
    "error_figure",
    "retention_figure",
    "shift_figure",
    "simulation_figure",
    "time_figure",
]

Record = Mapping[str, Any]

_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.5, 1.5)))
_COLOURS = (BLUE, ORANGE, GREEN, GREY)


@figure_style()
def shift_figure(record: Record) -> Figure:
    """Shift of the first crossing over the rate of the average."""
    figure, axes = new_figure(height=2.8)
    rows = [row for row in record["tables"]["ema_crossings"] if row["first_crossing"] is not None]
    shown: list[float] = []
    for line, num_steps in enumerate(sorted({row["num_steps"] for row in rows})):
        mine = [row for row in rows if row["num_steps"] == num_steps]
        plain = next(row["first_crossing"] for row in mine if row["turnovers"] is None)
        averaged = [row for row in mine if row["turnovers"] is not None]
        shifts = [max(abs(row["first_crossing"] - plain), 1e-14) for row in averaged]
        shown += shifts
        axes.plot(
            [row["turnovers"] for row in averaged],
            shifts,
            marker="o",
            markersize=4,
            color=_COLOURS[line % 4],
            linestyle=_DASHES[line % 3],
            label=f"T = {num_steps}",
        )
    set_title(
        figure,
        f"Averaging moves the crossing by {number(max(crossing_shifts(record)))} in λ at most",
    )
    turnovers = [row["turnovers"] for row in rows if row["turnovers"] is not None]
    log_axis(axes.xaxis, min(turnovers) / 1.3, max(turnovers) * 1.3)
    log_axis(axes.yaxis, min(shown) / 3, max(shown) * 3)
    axes.set_xlabel("time constants of the average in a merge, β s")
    axes.set_ylabel("shift of the crossing in λ")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


@figure_style()
def retention_figure(record: Record) -> Figure:
    """Retention at T over the rate of the average."""
    figure, axes = new_figure(height=2.6)
    rows = record["tables"]["ema_crossings"]
    plain = next(row["retention"] for row in rows if row["turnovers"] is None)
    by_rate = {row["turnovers"]: row["retention"] for row in rows if row["turnovers"] is not None}
    axes.plot(list(by_rate), list(by_rate.values()), "o-", color=BLUE, markersize=4)
    axes.axhline(plain, color=INK, linestyle=(0, (4, 2)))
    slowest = min(by_rate)
    set_title(
        figure,
        f"An average with β s = {slowest:g} leaves {number(by_rate[slowest])} of the error, "
        f"plain flow {number(plain)}",
    )
    log_axis(axes.xaxis, min(by_rate) / 1.3, max(by_rate) * 1.3)
    log_axis(axes.yaxis, plain / 3, 1.0)
    axes.set_xlabel("time constants of the average in a merge, β s")
    axes.set_ylabel("retention at T")
    return figure


@figure_style()
def simulation_figure(record: Record) -> Figure:
    """Difference of averaged descent from the closed form over its iterations."""
    figure, axes = new_figure(height=3.0)
    rows = record["tables"]["ema_simulation"]
    counts = sorted({row["num_iterations"] for row in rows})
    for line, name in enumerate(dict.fromkeys(row["strategy"] for row in rows)):
        values = [row["difference"] for row in rows if row["strategy"] == name]
        axes.plot(
            counts, values, marker="o", markersize=4, color=_COLOURS[line],
            linestyle=_DASHES[line % 3], label=name,
        )  # fmt: skip
    differences = [row["difference"] for row in rows]
    set_title(
        figure,
        "Averaged descent tends to the closed form, at last as N to the power "
        f"{simulation_order(record):.2f}",
    )
    log_axis(axes.xaxis, counts[0] / 1.3, counts[-1] * 1.3)
    log_axis(axes.yaxis, min(differences) / 2, max(differences) * 2)
    axes.set_xlabel("iterations N of a merge")
    axes.set_ylabel("relative difference of errors")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def error_figure(record: Record) -> Figure:
    """Errors over λ at one T, in turn and at once."""
    figure, axes = new_figure(height=3.5)
    steps = sorted({row["num_steps"] for row in record["tables"]["mixing"]})
    num_steps = steps[len(steps) // 2]
    rows = [
        row
        for row in record["tables"]["mixing"]
        if row["num_steps"] == num_steps and row["merge_rule"] == "operator-copy"
    ]
    values = [row["eigenvalue"] for row in rows]
    for key, label, colour, dash in (
        ("vanilla", "vanilla", ORANGE, "-"),
        ("boot", "BOOT", BLUE, "-"),
        ("mixed_boot", "BOOT, mixed", BLUE, (0, (4, 1.5))),
        ("consistency", "consistency", GREY, "-"),
        ("mixed_consistency", "consistency, mixed", GREY, (0, (4, 1.5))),
    ):
        axes.plot(values, [row[key] for row in rows], color=colour, linestyle=dash, label=label)
    lost, points = operator_copy_losses(record)
    set_title(
        figure,
        f"Mixed, BOOT errs more than vanilla at {lost} of {points} (λ, T); shown: T = {num_steps}",
    )
    log_axis(axes.xaxis, values[0], values[-1])
    log_axis(axes.yaxis, 1e-8, 10.0)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("relative error of the student")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def time_figure(record: Record) -> Figure:
    """Range of the time that mixing needs, by T and strategy."""
    figure, axes = new_figure(height=2.8)
    rows = time_factors(record)
    steps = sorted({row["num_steps"] for row in rows})
    looks = {"boot": ("BOOT", BLUE, -0.06), "consistency": ("consistency", GREY, 0.06)}
    for name in SEQUENTIAL:
        label, colour, offset = looks[name]
        for num_steps in steps:
            found = [
                row["factor"]
                for row in rows
                if (row["num_steps"], row["strategy"]) == (num_steps, name)
            ]
            place = num_steps * np.exp(offset)
            axes.plot(
                [place, place], [min(found), max(found)], color=colour, linewidth=5,
                solid_capstyle="round", label=label if num_steps == steps[0] else None,
            )  # fmt: skip
    axes.plot(
        steps, [count - 1 for count in steps], color=INK, linestyle=(0, (1, 1)), label="T - 1"
    )
    largest = max(row["factor"] for row in rows)
    set_title(figure, f"Mixing must train up to {largest:.2g} times as long to err as little")
    log_axis(axes.xaxis, steps[0] / 1.4, steps[-1] * 1.4)
    log_axis(axes.yaxis, 0.8, 2.0 * steps[-1])
    axes.set_xlabel("number of teacher steps T")
    axes.set_ylabel("times as long as in turn")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


@figure_style()
def comb_figure(record: Record) -> Figure:
    """Merges of the best comb over λ, in turn and at once."""
    figure, axes = new_figure(height=2.9)
    rows = [r for r in record["tables"]["mixing_combs"] if r["merge_rule"] == "operator-copy"]
    values = [row["eigenvalue"] for row in rows]
    for key, label, colour, dash in (
        ("merges_in_turn", "trained in turn", BLUE, "-"),
        ("merges_at_once", "trained at once", ORANGE, (0, (4, 1.5))),
    ):
        axes.step(
            values, [row[key] for row in rows], where="mid", color=colour, linestyle=dash,
            label=label,
        )  # fmt: skip
    vanilla = sum(row["best_at_once"] == "vanilla" for row in rows)
    set_title(
        figure,
        f"Trained at once, vanilla is the best comb at {vanilla} of {len(rows)} λ "
        f"(T = {rows[0]['num_steps']})",
    )
    log_axis(axes.xaxis, values[0], values[-1])
    axes.set_ylim(0, rows[0]["num_steps"])
    axes.set_yticks(range(0, rows[0]["num_steps"], 2))
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("merges of the best comb")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure
