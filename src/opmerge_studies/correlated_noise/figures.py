"""Figures of the study `correlated-noise`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.sentences import number, percent, times
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
from opmerge_studies.correlated_noise.numbers import (
    CASES,
    PLANNED,
    SHOWN_CASE,
    THEORIES,
    Record,
    Row,
    boot_rows,
    law_spread,
    near_best,
    ratio,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "crossing_figure",
    "digits_figure",
    "half_figure",
    "law_figure",
    "level_figure",
    "regret_figure",
]

_STYLES: Mapping[str, Mapping[str, Any]] = {
    "generalised": {"color": GREEN, "linestyle": (0, (4, 1.5))},
    "data_basis": {"color": BLUE, "linestyle": "-"},
    "isotropic": {"color": ORANGE, "linestyle": (0, (1.5, 1.5))},
}
_TRUE: Mapping[str, Any] = {"color": INK, "linestyle": "-", "marker": "o", "markersize": 3}
_LAWS: Mapping[str, Mapping[str, Any]] = {
    "laplace": {"color": ORANGE, "marker": "s"},
    "gaussian": {"color": BLUE, "marker": "o"},
    "digits": {"color": INK, "marker": "D"},
    "uniform": {"color": GREEN, "marker": "^"},
}
_LEAST_REGRET = 1e-4  # drawn at the foot of the figure


@figure_style()
def level_figure(record: Record) -> Figure:
    """W2 of each scalar theory over the true one, by angle."""
    rows = [r for r in boot_rows(record["tables"]["plane"]) if r["case"] == SHOWN_CASE]
    lowest = min(min(ratio(row, name) for row in rows) for name in THEORIES)
    figure, axes = new_figure(height=2.9)
    set_title(
        figure,
        f"Between the axes scalar theory misses W2 by up to {times(1 / lowest)}"
        if lowest < 0.5
        else "Scalar theory has W2 about right at every angle",
    )
    _lines(axes, rows, "angle", ratio)
    log_axis(axes.yaxis, lowest / 2, 3.0)
    axes.set_ylabel("W2 of theory / true W2")
    _angles(axes)
    return figure


@figure_style()
def regret_figure(record: Record) -> Figure:
    """What plans cost over the best one, by angle and by what chose them."""
    rows = record["tables"]["oracle"]
    angles = sorted({row["angle"] for row in rows})
    figure, axes = new_figure(height=3.0)
    set_title(
        figure,
        f"Combs planned with the matrices are within 1 % of the best plan at "
        f"{near_best(rows)['comb']} of {len(rows)} pairs",
    )
    for name, style in {**_STYLES, "comb": _TRUE}.items():
        worst = [max(r[name] for r in rows if r["angle"] == angle) for angle in angles]
        axes.plot(angles, np.maximum(worst, _LEAST_REGRET), label=PLANNED[name], **style)
    log_axis(axes.yaxis, _LEAST_REGRET / 1.3, 3.0)
    axes.set_ylabel("excess of W2 over the best plan")
    _angles(axes)
    return figure


@figure_style()
def crossing_figure(record: Record) -> Figure:
    """Where BOOT and vanilla cross, by angle."""
    rows = record["tables"]["crossings"]
    exact = [row["exact"] for row in rows if row["exact"] is not None]
    figure, axes = new_figure(height=2.9)
    set_title(
        figure,
        f"The crossing moves with the angle, from λ = {min(exact):.2g} to {max(exact):.2g}"
        if exact
        else "BOOT and vanilla do not cross",
    )
    for name, style in {**_STYLES, "exact": _TRUE}.items():
        values = [np.nan if row[name] is None else row[name] for row in rows]
        axes.plot([row["angle"] for row in rows], values, label=THEORIES.get(name, name), **style)
    log_axis(axes.yaxis, 0.2, 3.0)
    axes.set_ylabel("crossing, data scale λ")
    _angles(axes)
    return figure


@figure_style()
def digits_figure(record: Record) -> Figure:
    """BOOT's W2 on digits, true and in theory, by correlation."""
    rows = boot_rows(record["tables"]["digits"])
    figure, axes = new_figure(height=2.9)
    last = rows[-1]
    set_title(
        figure,
        f"At ρ = {last['correlation']:g} BOOT errs by {number(last['w2'])}; theory that ignores "
        f"the correlation says {number(last['isotropic'])}",
    )
    places = [row["correlation"] for row in rows]
    axes.plot(places, [r["w2"] for r in rows], label="exact", **_TRUE)
    _lines(axes, rows, "correlation", lambda row, name: float(row[name]))
    log_axis(axes.yaxis, 0.3 * min(r["isotropic"] for r in rows), 3.0)
    axes.set_xlabel("correlation ρ of neighbouring pixels' noise")
    axes.set_ylabel("W2 to the teacher, BOOT")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def half_figure(record: Record) -> Figure:
    """The angle from which theory in the data's basis sees less than half of the error."""
    rows = record["tables"]["half_angles"]
    figure, axes = new_figure(height=3.0)
    found = [row["angle"] for row in rows if row["angle"] is not None]
    set_title(
        figure,
        f"Longer training makes the angle that matters smaller, down to {min(found):.2g}°"
        if found
        else "Theory in the data's basis sees more than half of the error up to 45°",
    )
    markers = zip(CASES.items(), (GREEN, BLUE, ORANGE), ("^", "o", "s"), strict=True)
    for (case, label), colour, marker in markers:
        own = [row for row in rows if row["case"] == case]
        angles = [np.nan if row["angle"] is None else row["angle"] for row in own]
        times_ = [row["merge_time"] for row in own]
        axes.plot(times_, angles, marker, color=colour, markersize=4, label=f"data {label}")
    rule = sorted({(row["merge_time"], row["rule"]) for row in rows})
    axes.plot(*zip(*rule, strict=True), color=GREY, linestyle=(0, (4, 2)), label="rule")
    log_axis(axes.xaxis, 0.8, 12.5)
    log_axis(axes.yaxis, 5.0, 50.0)
    axes.set_xlabel("optimisation time s of a merge")
    axes.set_ylabel("angle of half the error, degrees")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def law_figure(record: Record) -> Figure:
    """What batches add to the squared error, by law and step."""
    rows = record["tables"]["merges"]
    figure, axes = new_figure(height=2.9)
    first, last = (law_spread(rows, pick(row["step"] for row in rows)) for pick in (min, max))
    set_title(
        figure,
        f"The law of the data changes what batches add by {percent(first)} near the data and by "
        f"{percent(last)} at T",
    )
    for law, style in _LAWS.items():
        own = [row for row in rows if row["law"] == law]
        steps = [row["step"] for row in own]
        axes.plot(steps, [row["expected"] for row in own], color=style["color"])
        axes.errorbar(
            steps,
            [row["measured"] for row in own],
            [row["standard_error"] for row in own],
            fmt=style["marker"],
            color=style["color"],
            markersize=3.5,
            linewidth=1.0,
            label=law,
        )
    axes.set_xticks(sorted({row["step"] for row in rows}))
    axes.set_xlabel("step j that the student reads, of 8")
    axes.set_ylabel("mean square / that of the mean")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


def _lines(axes: Axes, rows: Sequence[Row], key: str, value: Callable[[Row, str], float]) -> None:
    for name, style in _STYLES.items():
        values = [value(row, name) for row in rows]
        axes.plot([row[key] for row in rows], values, label=THEORIES[name], **style)


def _angles(axes: Axes) -> None:
    axes.set_xticks(range(0, 91, 15))
    axes.set_xlabel("angle between the axes of noise and data, degrees")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
