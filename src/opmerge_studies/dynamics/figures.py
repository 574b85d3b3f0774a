"""Figures of the study `dynamics`."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.sentences import percent
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
from opmerge_studies.dynamics.sentences import (
    PROMISED,
    deviations,
    fits_of,
    is_within_chance,
    largest_difference,
    worst_by_rate,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["adam_figure", "dense_figure", "deviation_figure", "exact_figure", "step_figure"]

Record = Mapping[str, Any]

_STRATEGIES = {
    "vanilla": (ORANGE, "-"),
    "boot": (BLUE, "-"),
    "progressive": (GREEN, (0, (4, 1.5))),
    "consistency": (GREY, (0, (1.5, 1.5))),
}


@figure_style()
def exact_figure(record: Record) -> Figure:
    """Largest difference of each plan trained without chance."""
    figure, axes = new_figure(height=2.8)
    marks = {"flow": ("ODE solver", GREEN, "s"), "descent": ("full-batch descent", BLUE, "o")}
    for optimiser, (label, colour, mark) in marks.items():
        rows = [row for row in record["tables"]["ends"] if row["optimiser"] == optimiser]
        for name, place in zip(_STRATEGIES, range(4), strict=True):
            worst: dict[tuple[int, int], float] = {}
            for row in rows:
                if row["strategy"] == name:
                    key = (row["num_steps"], row["num_iterations"])
                    worst[key] = max(worst.get(key, 1e-17), row["difference"])
            axes.plot(
                list(worst.values()), [place] * len(worst), mark, color=colour,
                markersize=5, alpha=0.8, label=label if place == 0 else None,
            )  # fmt: skip
    axes.axvline(PROMISED, color=INK, linestyle=(0, (1, 1)))
    worst_of_all = max(largest_difference(record, name) for name in marks)
    set_title(figure, f"Every plan ends within {worst_of_all:.0e} of the closed form")
    log_axis(axes.xaxis, 1e-17, 1e-9)
    axes.set_yticks(range(4), list(_STRATEGIES))
    axes.set_ylim(-0.6, 3.6)
    axes.set_xlabel("relative difference of operators")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def deviation_figure(record: Record) -> Figure:
    """Histogram of SGD's deviations beside what chance gives."""
    figure, axes = new_figure(height=2.8)
    values = [*deviations(record, "merges"), *deviations(record, "ends")]
    edges = np.arange(-5.25, 5.26, 0.5).tolist()
    inside = np.clip(values, -5.2, 5.2)
    axes.hist(inside, edges, color="#a6cee3", edgecolor=GREY, linewidth=0.5)
    normal = NormalDist()
    points = np.linspace(-5, 5, 201)
    axes.plot(points, [0.5 * len(values) * normal.pdf(point) for point in points], color=INK)
    near = percent(float(np.mean(np.abs(values) < 2)))
    chance = "as chance does" if is_within_chance(values) else "by more than chance"
    set_title(
        figure, f"SGD deviates from the closed form {chance}: {near} within 2 standard errors"
    )
    axes.set_xlabel("deviation of the mean over runs, standard errors")
    axes.set_ylabel("merges and students")
    return figure


@figure_style()
def dense_figure(record: Record) -> Figure:
    """What minibatches add to a full matrix, by batch size."""
    figure, axes = new_figure(height=3.1)
    rows = record["tables"]["dense"]
    sizes = np.array([row["batch_size"] for row in rows], dtype=float)
    for key, label, colour, dash in (
        ("theory", "full matrix", BLUE, "-"),
        ("diagonal", "one weight a coordinate", GREY, (0, (4, 1.5))),
    ):
        axes.plot(sizes, [row[key] - 1 for row in rows], color=colour, linestyle=dash, label=label)
    measured = np.array([row["measured"] - 1 for row in rows])
    shown = measured > 0
    axes.plot(sizes[shown], measured[shown], "o", color=BLUE, markersize=5, label="measured")
    set_title(
        figure,
        f"At batch size {rows[0]['batch_size']} SGD errs {percent(rows[0]['measured'] - 1)} more "
        "than the closed form",
    )
    log_axis(axes.xaxis, sizes.min() / 1.3, sizes.max() * 1.3)
    low = min(row["diagonal"] - 1 for row in rows)
    high = max(row["theory"] - 1 for row in rows)
    log_axis(axes.yaxis, low / 2, high * 3)
    axes.set_xlabel("batch size B")
    axes.set_ylabel("error added, closed form = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=0.8)
    return figure


@figure_style()
def step_figure(record: Record) -> Figure:
    """Difference between descent and flow over the step size."""
    figure, axes = new_figure(height=3.1)
    rows = record["tables"]["step_sizes"]
    rates = sorted({row["learning_rate"] for row in rows})
    for name, (colour, dash) in _STRATEGIES.items():
        worst = [
            max(
                row["difference"]
                for row in rows
                if row["strategy"] == name and row["learning_rate"] == rate
            )
            for rate in rates
        ]
        axes.plot(rates, worst, marker="o", markersize=4, color=colour, linestyle=dash, label=name)
    by_rate = worst_by_rate(record)
    rate, largest = max(by_rate.items())
    set_title(
        figure, f"Steps of η = {rate:g} put the error {percent(largest)} away from that of flow"
    )
    log_axis(axes.xaxis, min(rates) / 1.3, max(rates) * 1.3)
    values = [row["difference"] for row in rows]
    log_axis(axes.yaxis, max(min(values), 1e-6) / 2, max(values) * 2)
    axes.set_xlabel("learning rate η, in N = 1/η iterations")
    axes.set_ylabel("relative difference of errors")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def adam_figure(record: Record) -> Figure:
    """What a merge learns over the variance of its input, by descent and by Adam."""
    figure, axes = new_figure(height=3.2)
    iterations = min(row["num_iterations"] for row in record["tables"]["fits"])
    rates = sorted({row["learning_rate"] for row in fits_of(record, "adam")})
    ways: list[tuple[str, float | None, str, str, str]] = [
        ("descent", None, "descent", BLUE, "o"),
        ("adam", rates[0], f"Adam, η = {rates[0]:g}", ORANGE, "^"),
        ("adam", rates[-1], f"Adam, η = {rates[-1]:g}", GREY, "v"),
    ]
    chosen = [row for row in record["tables"]["merges"] if row["num_iterations"] == iterations]
    for optimiser, rate, label, colour, mark in ways[: 2 + (len(rates) > 1)]:
        rows = [
            row
            for row in chosen
            if row["optimiser"] == optimiser
            and rate in (None, row["learning_rate"])
            and (row["batch_size"] is None)
        ]
        variances = [row["variance"] for row in rows]
        learned = [max(-np.log(abs(row["retention"])), 0.01) for row in rows]
        axes.plot(variances, learned, mark, color=colour, markersize=3.5, alpha=0.6, label=label)
    exponents = [row["exponent"] for row in fits_of(record, "adam") if row["merges"]]
    set_title(
        figure,
        "Descent learns in proportion to n; Adam as n to the power "
        f"{min(exponents):.1f} to {max(exponents):.1f}, with wide scatter"
        if exponents
        else "Descent learns in proportion to n; Adam left nothing to learn",
    )
    inputs = [float(row["variance"]) for row in chosen]
    log_axis(axes.xaxis, min(inputs) / 1.3, max(inputs) * 1.3)
    log_axis(axes.yaxis, 0.03, 50.0)
    axes.set_xlabel("variance n of the student's input")
    axes.set_ylabel("learned in a merge, -ln |ρ|")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=0.8)
    return figure
