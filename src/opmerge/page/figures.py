"""The figures of a report: each a function of the record, titled with what is seen in it.

Every distinction is made twice, by colour and by marker, dash or lightness, so that the figures
can be read by everyone and from a greyscale print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.page.sentences import (
    best_named,
    error_by_step,
    half_of_error,
    location_title,
    number,
    plan_title,
    spectrum_title,
    strategies_title,
    target,
    teacher_title,
)
from opmerge.plans.drawing import plan_figure
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "direction_errors",
    "directions_figure",
    "is_negligible",
    "location_figure",
    "record_plan_figure",
    "spectrum_figure",
    "strategies_figure",
    "teacher_figure",
]

Array = NDArray[np.float64]
Record = Mapping[str, Any]

_NEGLIGIBLE = 1e-20  # eigenvalues so far under the largest stand for 0
_MOST_MARKERS = 300  # of a spectrum; of more eigenvalues only the line is drawn
_MARKERS_OF_A_CURVE = 50
_ALL_EQUAL = 1e-6  # decades
_LONGEST_LINEAR = 128  # eigenvalues whose ranks are legible on a linear axis


def is_negligible(eigenvalues: Array) -> NDArray[np.bool_]:
    """Which eigenvalues stand for 0: those under 1e-20 of the largest."""
    negligible: NDArray[np.bool_] = eigenvalues <= _NEGLIGIBLE * eigenvalues.max()
    return negligible


@figure_style()
def spectrum_figure(eigenvalues: ArrayLike, multiplicities: ArrayLike | None = None) -> Figure:
    """Eigenvalues by rank on a log scale, coloured by their side of λ = 1.

    Args:
        eigenvalues: (k,) in any order, at least one above 0; zeros are drawn at the lower edge.
        multiplicities: (k,) how many directions share each; 1 unless given.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    counts = np.ones_like(values) if multiplicities is None else np.asarray(multiplicities, float)
    order = np.argsort(-values, kind="stable")
    values, counts = values[order], counts[order]
    zero = is_negligible(values)
    low = min(float(values[~zero].min()), 1.0) / 3
    drawn = np.where(zero, low / 3, values)
    last = np.cumsum(counts)
    figure, axes = new_figure(height=2.7)
    set_title(figure, spectrum_title(values, counts))
    for side, marker, colour, name in (
        (values > 1, "^", ORANGE, "λ > 1"),
        ((values <= 1) & ~zero, "o", BLUE, "λ ≤ 1"),
        (zero, "x", GREY, "λ ≈ 0"),
    ):
        if side.any():
            first, end = (last - counts + 1)[side], last[side]
            label = f"{name}: {counts[side].sum():.0f}"
            _draw_ranks(axes, first, end, drawn[side], marker, colour, label)
    axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    log_axis(axes.yaxis, low / 5 if zero.any() else low, max(float(values.max()), 1.0) * 3)
    if last[-1] > _LONGEST_LINEAR:
        log_axis(axes.xaxis, 0.9, float(last[-1]) * 1.1)
    else:
        axes.set_xlim(0.5 - 0.02 * last[-1], 0.5 + 1.02 * last[-1])
        axes.set_xticks(np.unique(np.linspace(1, last[-1], 5).round()))
    axes.set_xlabel("rank of the eigen-direction")
    axes.set_ylabel("eigenvalue λ")
    axes.annotate("λ = 1", (1, 1), (-2, 3), ("axes fraction", "data"), "offset points", ha="right")
    _legend_above(axes, columns=3)
    return figure


def _draw_ranks(
    axes: Axes, first: Array, last: Array, values: Array, marker: str, colour: str, label: str
) -> None:
    many = len(values) > _MOST_MARKERS
    axes.plot(
        np.column_stack([first, last]).ravel() if many else (first + last) / 2,
        np.repeat(values, 2) if many else values,
        marker="" if many else marker,
        linestyle="-" if many else "",
        linewidth=3 if marker == "^" else 1.6,
        color=colour,
        markersize=5,
        label=label,
    )
    if not many and (last > first).any():
        axes.hlines(values, first, last, color=colour, linewidth=2)


def record_plan_figure(record: Record) -> Figure:
    """The best plan of a record, drawn."""
    best = record["best"]
    return plan_figure(best["merge_list"], best["boundaries"], plan_title(record))


@dataclass(frozen=True)
class _Dot:
    label: str
    value: float
    marker: str = "o"
    colour: str = BLUE
    bold: bool = False


@figure_style()
def strategies_figure(record: Record) -> Figure:
    """The best plan, the bound that no plan can beat and the named strategies, on a log scale."""
    best = record["best"]
    dots = [
        _Dot("lower bound", best["lower_bound"], "|", INK),
        _Dot("best plan", best["w2"], "D", ORANGE, bold=True),
        *(_Dot(s["name"], s["w2"]) for s in sorted(record["strategies"], key=lambda s: s["w2"])),
    ]
    figure, axes = new_figure(height=0.95 + 0.2 * len(dots))
    set_title(figure, strategies_title(record))
    _draw_dots(axes, dots)
    if best["lower_bound"] > 0:
        axes.axvline(best["lower_bound"], color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel(f"W2 to {target(record)}")
    return figure


@figure_style()
def teacher_figure(record: Record) -> Figure:
    """How far the teacher is from the data, beside how far the students are from their target."""
    to, named = target(record), best_named(record)
    dots = [
        _Dot("teacher to the data", record["teacher"]["w2_to_data"], "^", GREEN),
        _Dot(f"best plan to {to}", record["best"]["w2"], "D", ORANGE, bold=True),
    ]
    if named is not None:
        dots.append(_Dot(f"{named['name']} to {to}", named["w2"]))
    figure, axes = new_figure(height=1.0 + 0.24 * len(dots))
    set_title(figure, teacher_title(record))
    _draw_dots(axes, dots)
    axes.set_xlabel("W2")
    return figure


def _draw_dots(axes: Axes, dots: Sequence[_Dot]) -> None:
    """One row each, first on top, with its value beside it; zeros stand at the left edge."""
    positive = [dot.value for dot in dots if dot.value > 0]
    low, high = np.log10(min(positive, default=1.0)), np.log10(max(positive, default=1.0))
    span = high - low if high - low > _ALL_EQUAL else 0.5
    edge = low - 0.08 * span
    texts = _told_apart([dot.value for dot in dots])
    log_axis(axes.xaxis, 10 ** (low - 0.16 * span), 10 ** (high + 0.5 * span))
    if not positive:
        axes.set_xticks([])
    for row, (dot, text) in enumerate(zip(dots, texts, strict=True)):
        place = dot.value if dot.value > 0 else 10**edge
        axes.axhline(row, color="#e2e2e2", linewidth=0.6, zorder=0)
        axes.plot(place, row, dot.marker if dot.value > 0 else "<", color=dot.colour, markersize=6)
        axes.annotate(
            text,
            (place, row),
            (7, 0),
            textcoords="offset points",
            va="center_baseline",
            fontweight="bold" if dot.bold else "normal",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    for tick, dot in zip(axes.get_yticklabels(), dots, strict=True):
        tick.set_fontweight("bold" if dot.bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(dots) - 0.5, -0.5)


def _told_apart(values: Sequence[float]) -> list[str]:
    """The values with 3 digits, or with 4 where that tells more of them apart."""
    short, long = ([f"{value:.{digits}g}" for value in values] for digits in (3, 4))
    return long if len(set(long)) > len(set(short)) else short


def direction_errors(record: Record) -> dict[str, Array]:
    """(d,) error in one direction of each eigenvalue: √(squared W2 / multiplicity), by curve."""
    counts = np.asarray(record["spectrum"]["multiplicities"], dtype=np.float64)
    named, to = best_named(record), target(record)
    errors = {f"best plan to {to}": record["best"]["errors"]}
    if named is not None:
        errors[f"{named['name']} to {to}"] = named["errors"]
    errors["teacher to the data"] = record["teacher"]["errors"]
    return {name: np.sqrt(np.asarray(squared) / counts) for name, squared in errors.items()}


@figure_style()
def directions_figure(record: Record) -> Figure:
    """Error per eigen-direction against its eigenvalue: best plan, best strategy, teacher."""
    eigenvalues = np.asarray(record["spectrum"]["eigenvalues"], dtype=np.float64)
    shown = ~is_negligible(eigenvalues)
    curves = direction_errors(record)
    figure, axes = new_figure(height=3.2)
    set_title(figure, _directions_title(eigenvalues, next(iter(curves.values()))))
    smallest, largest = np.inf, 0.0
    for (name, errors), look in zip(curves.items(), _curve_looks(len(curves)), strict=True):
        seen = shown & (errors > 0)
        label = name if seen.any() else f"{name} (0)"
        marked = _spread(eigenvalues[seen])
        axes.plot(eigenvalues[seen], errors[seen], label=label, markevery=marked, **look)
        smallest = min(smallest, errors[seen].min(initial=np.inf))
        largest = max(largest, errors[seen].max(initial=0.0))
    if largest > 0:
        log_axis(axes.yaxis, smallest / 2, largest * 2)
    else:
        axes.set_yticks([])
    low, high = float(eigenvalues[shown].min()), float(eigenvalues.max())
    log_axis(axes.xaxis, min(low, 1.0) / 1.5, max(high, 1.0) * 1.5)
    axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
    axes.set_xlabel("eigenvalue λ (dashed: λ = 1)")
    axes.set_ylabel("W2 in one eigen-direction")
    _legend_above(axes, columns=1)
    return figure


def _legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        borderaxespad=0,
        ncols=columns,
        columnspacing=1.2,
    )


def _curve_looks(number_of_curves: int) -> list[dict[str, Any]]:
    """Best plan, best named strategy (where there is one) and teacher."""
    best = {"color": ORANGE, "marker": "D", "markersize": 2.8, "linestyle": "-", "zorder": 3}
    named = {"color": BLUE, "marker": "o", "markersize": 5, "linestyle": (0, (4, 1.5))}
    teacher = {"color": GREEN, "marker": "^", "markersize": 4.5, "linestyle": (0, (1, 1.5))}
    hollow = {"markerfacecolor": "white", "markeredgewidth": 0.9, "linewidth": 1.0}
    looks = [best, named | hollow, teacher | hollow]
    return looks if number_of_curves == len(looks) else [looks[0], looks[2]]


def _spread(eigenvalues: Array) -> list[int]:
    """Indices of eigenvalues (descending) at about even distances on a log axis, both ends in."""
    if len(eigenvalues) == 0:
        return []
    logs = -np.log(eigenvalues)
    places = np.linspace(logs[0], logs[-1], _MARKERS_OF_A_CURVE)
    nearest = np.abs(logs[:, None] - places).argmin(axis=0)
    return sorted({int(index) for index in nearest})


def _directions_title(eigenvalues: Array, errors: Array) -> str:
    if not (errors > 0).any():
        return "The best plan makes no error in any direction"
    worst = eigenvalues[int(np.argmax(errors))]
    return f"The best plan errs most in the direction of λ = {number(worst)}"


@figure_style()
def location_figure(record: Record) -> Figure:
    """Share of the squared error per step, with the steps that carry half of it."""
    from matplotlib.ticker import MaxNLocator

    steps = record["problem"]["steps"]
    shares = error_by_step(record)
    edges = np.arange(steps, -1, -1) + 0.5
    figure, axes = new_figure(height=2.5)
    set_title(figure, location_title(record))
    axes.stairs(shares, edges, fill=True, color="#8ec3e6")
    half = half_of_error(shares)
    if half is not None:
        first, last = half
        here = slice(steps - first, steps - last + 1)
        axes.stairs(shares[here], np.arange(first, last - 2, -1) + 0.5, fill=True, color=BLUE)
    for boundary in record["best"]["boundaries"][1:-1]:
        axes.axvline(boundary + 0.5, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_xlim(steps + 0.5, 0.5)
    # a fixed number of ticks: the automatic one changes once the layout has made room for it
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(0, 1.06 * (shares.max() or 1.0))
    axes.set_xlabel("step t (noise left, data right)")
    axes.set_ylabel("% of the error per step")
    return figure
