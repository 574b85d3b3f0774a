"""Figures of a study that sets predicted errors of plans beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
from opmerge_studies.real_networks.agreement_sentences import is_planned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement_figure", "cost_figure", "pareto_set", "plan_directions_figure"]

Array = NDArray[np.float64]
Entry = Mapping[str, Any]

_LINE_OF_TEXT = 12.5  # points
_BAND = "#e9eef2"
_NARROW = 5.0  # ratio of the ends of an axis that has too few round numbers on a log scale


@figure_style()
def agreement_figure(
    entries: Sequence[Entry], kind: str, title: str, within: float | None = None
) -> Figure:
    """Measured against predicted error of every plan, both on log scales; the planner's marked.

    Args:
        entries: the plans of a record.
        kind: which prediction: a key of an entry's ``predicted``.
        title: what is seen.
        within: also draw the line on which both are equal, and the band of this factor about it.
    """
    predicted = np.array([entry["predicted"][kind]["error"] for entry in entries])
    measured = _measured(entries)
    figure, axes = new_figure(height=3.6)
    set_title(figure, title)
    _frame(axes.yaxis, measured)
    _frame(axes.xaxis, predicted)
    if within is not None:
        both = np.array([predicted.min() / 10, predicted.max() * 10])
        axes.fill_between(both, both / within, both * within, color=_BAND, linewidth=0, zorder=0)
        axes.plot(both, both, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
    marked = [is_planned(entry, kind) for entry in entries]
    _draw_plans(figure, axes, predicted, measured, entries, marked)
    axes.set_xlabel("predicted error")
    axes.set_ylabel("measured error")
    return figure


@figure_style()
def cost_figure(entries: Sequence[Entry], cost: Sequence[float], label: str, title: str) -> Figure:
    """Measured error against the cost of training, with the plans that no other beats in both.

    Args:
        entries: the plans of a record.
        cost: of each of them.
        label: what the cost is.
        title: what is seen.
    """
    costs, measured = np.array(cost), _measured(entries)
    figure, axes = new_figure(height=3.4)
    set_title(figure, title)
    _frame(axes.yaxis, measured)
    _frame(axes.xaxis, costs)
    front = pareto_set(costs, measured[0])
    order = sorted(front, key=lambda index: float(costs[index]))
    axes.plot(
        costs[order],
        measured[0, order],
        drawstyle="steps-post",
        color=GREEN,
        linewidth=1.1,
        linestyle=(0, (4, 2)),
        zorder=1,
    )
    _draw_plans(
        figure, axes, costs, measured, entries, [index in front for index in range(len(entries))]
    )
    axes.set_xlabel(label)
    axes.set_ylabel("measured error")
    return figure


@figure_style()
def plan_directions_figure(
    eigenvalues: Array, curves: Mapping[str, tuple[Array, Array]], title: str
) -> Figure:
    """Predicted (lines) and measured (markers) error in one direction of each eigenvalue.

    Args:
        eigenvalues: (d,) descending, above 0.
        curves: by plan, at most two: (d,) predicted and (d,) measured errors, not squared.
        title: what is seen.
    """
    figure, axes = new_figure(height=3.4)
    set_title(figure, title)
    seen = np.concatenate([np.concatenate(pair) for pair in curves.values()])
    seen = seen[seen > 0]
    log_axis(axes.yaxis, seen.min() / 2, seen.max() * 2)
    log_axis(axes.xaxis, eigenvalues[-1] / 1.5, eigenvalues[0] * 1.5)
    looks = ((BLUE, "o", "-"), (ORANGE, "^", (0, (4, 1.5))))
    for (name, (predicted, measured)), (colour, marker, dash) in zip(
        curves.items(), looks, strict=False
    ):
        axes.plot(eigenvalues, predicted, color=colour, linestyle=dash, label=f"{name}, predicted")
        axes.plot(
            eigenvalues,
            measured,
            marker,
            color=colour,
            markersize=4,
            markerfacecolor="white",
            label=f"{name}, measured",
        )
    axes.set_xlabel("eigenvalue λ")
    axes.set_ylabel("error in one eigen-direction")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, ncols=1)
    return figure


def pareto_set(cost: Array, error: Array) -> set[int]:
    """Indices of the plans that no other plan beats in cost and error at once."""

    def is_beaten(index: int) -> bool:
        no_worse = (cost <= cost[index]) & (error <= error[index])
        better = (cost < cost[index]) | (error < error[index])
        return bool((no_worse & better).any())

    return {index for index in range(len(cost)) if not is_beaten(index)}


def _measured(entries: Sequence[Entry]) -> Array:
    """(3, n) mean, low and high."""
    keys = ("mean", "low", "high")
    return np.array([[entry["measured"][key] for entry in entries] for key in keys])


def _frame(axis: Any, values: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    room = max((high / low) ** 0.12, 1.05)
    log_axis(axis, low / room, high * room)
    if high < _NARROW * low:
        axis.set_major_locator(MaxNLocator(3))


def _draw_plans(
    figure: Figure,
    axes: Axes,
    x: Array,
    measured: Array,
    entries: Sequence[Entry],
    marked: Sequence[bool],
) -> None:
    """A marker with its range for each plan, and its name where it does not cover another's."""
    mean, low, high = measured
    axes.vlines(x, low, high, color=GREY, linewidth=1.0, zorder=2)
    for special, colour, marker in ((False, BLUE, "o"), (True, ORANGE, "D")):
        here = np.array(marked) == special
        axes.plot(x[here], mean[here], marker, color=colour, markersize=6, zorder=3)
    figure.draw_without_rendering()  # the layout decides how long the axes are
    height = axes.get_window_extent().height * 72 / figure.dpi
    inside = axes.transAxes.inverted()
    points = inside.transform(axes.transData.transform(np.column_stack([x, mean])))
    places = _spread(points[:, 1], _LINE_OF_TEXT / height)
    for entry, (across, up), place, bold in zip(entries, points, places, marked, strict=True):
        to_the_right = across < 0.5
        axes.annotate(
            entry["label"],
            (across, up),
            (across + (0.06 if to_the_right else -0.06), place),
            "axes fraction",
            "axes fraction",
            ha="left" if to_the_right else "right",
            va="center",
            fontweight="bold" if bold else "normal",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0},
            zorder=2.5,
        )


def _spread(heights: Array, gap: float) -> Array:
    """Heights moved as little as possible (least squares) so that all are ``gap`` apart."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    spread = np.empty_like(heights)
    top = max(1.0 - steps[-1], 0.0)
    spread[order] = np.clip(isotonic_regression(heights[order] - steps).x, 0.0, top) + steps
    return spread
