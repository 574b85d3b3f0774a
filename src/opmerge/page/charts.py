"""The chart forms that most figures are, each drawn once and shown in a page and as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.arrays import Array
from opmerge.page.layout import Section, Table, draw_section
from opmerge.plotting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    figure_style,
    log_axis,
    new_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MatplotlibAxis
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

DASHED, DOTTED = (0, (3, 1.5)), (0, (1, 1))
DASHES: Sequence[Any] = ("-", DASHED, DOTTED, (0, (6, 1.5, 1, 1.5)))
"""Of the first, second, … line of a chart without markers."""
LOOKS: Sequence[Mapping[str, Any]] = [
    {"color": colour, "marker": marker, "markersize": 4}
    for colour, marker in zip((BLUE, ORANGE, GREEN, GREY, INK, PALE, INK), "os^vxDP", strict=True)
]
"""Colour and marker of the first, second, … group of a chart."""
STYLES: Mapping[str, Mapping[str, Any]] = {
    "vanilla": {"color": ORANGE, "linestyle": "-", "marker": "s"},
    "boot": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "progressive": {"color": GREEN, "linestyle": (0, (4, 1.5)), "marker": "^"},
    "consistency": {"color": GREY, "linestyle": (0, (1.5, 1.5)), "marker": "v"},
    "uniform:4": {"color": GREEN, "linestyle": (0, (1, 1)), "marker": "D"},
    "temporal:8": {"color": INK, "linestyle": (0, (6, 1.5, 1, 1.5)), "marker": "x"},
}
"""Line and marker of a strategy, as matplotlib names them."""

SHAPES: Mapping[str, tuple[str, str]] = {
    "boot": (BLUE, ""),
    "comb": (PALE, "...."),
    "tree": ("#f2f2f2", "xxxx"),
    "vanilla": (ORANGE, ""),
}
"""Fill and hatch of a plan's shape, so that greyscale tells them apart."""


@dataclass(frozen=True)
class Axis:
    """What stands on an axis.

    Args:
        words: its label, with the unit.
        limits: lowest and highest value; by default those of the data, by ``margin``.
        margin: factor of room around the data (of a linear axis: share of their range).
        ticks: values that are labelled, with their text; by default decades, or even steps.
    """

    words: str
    limits: tuple[float, float] | None = None
    margin: float = 1.5
    log: bool = True
    ticks: Mapping[float, str] | None = None


@dataclass(frozen=True)
class Series:
    """One line, set of points or steps of a chart.

    Args:
        label: its name in the legend; ``""`` leaves it out.
        x, y: (n,) places.
        look: matplotlib's properties of a line; ``drawstyle="steps-mid"`` draws steps.
        low, high: (n,) ends of an interval around y, drawn as bars, or as a ``band``.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    look: Mapping[str, Any] = field(default_factory=dict)
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    band: bool = False


@dataclass(frozen=True)
class Level:
    """A straight reference line: across at ``y``, or upright at ``x``."""

    x: float | None = None
    y: float | None = None
    look: Mapping[str, Any] = field(default_factory=lambda: {"color": INK, "linewidth": 0.7})


def chart(
    heading: str,
    caption: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    numbers: Table | None = None,
    **more: Any,
) -> Section:
    """A section of a page: ``curves`` of the series and of ``more``, with a table."""
    return draw_section(heading, caption, curves(series, x, y, title, **more), numbers)


def series_by(
    rows: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    looks: Mapping[Any, Mapping[str, Any]] | None = None,
    dashes: bool = False,
    **more: Any,
) -> list[Series]:
    """A series for each value of the column ``by`` of a long table, in the order of the rows.

    Lines differ by marker, or by ``dashes``, but for ``looks`` by name and ``more`` for all.
    """
    dashed = [{"linestyle": dash, "marker": ""} for dash in DASHES] if dashes else [{}]
    groups = rows.groupby(by, sort=False)
    return [
        Series(str(name), own[x], own[y], {**look, **dash, **(looks or {}).get(name, {}), **more})
        for look, dash, (name, own) in zip(cycle(LOOKS), cycle(dashed), groups, strict=False)
    ]


def series_of(
    rows: pd.DataFrame, x: str, columns: Iterable[str], over: str = "", **more: Any
) -> list[Series]:
    """A series for each column of a wide table, divided by the column ``over``; ``more`` for all.

    Those named like a strategy, such as its errors, are drawn in its style.
    """
    unit = rows[over] if over else 1.0
    return [
        Series(name, rows[x], rows[name] / unit, {**look, **STYLES.get(name, {}), **more})
        for name, look in zip(columns, cycle(LOOKS), strict=False)
    ]


@figure_style()
def curves(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    *,
    levels: Sequence[Level] = (),
    height: float = 3.0,
    columns: int = 3,
) -> Figure:
    """Lines, points, steps and intervals over one pair of axes.

    ``title`` says what is seen; axes make room for ``levels``; ``columns`` are the legend's.
    """
    figure, axes = new_figure(height, title)
    for each in series:
        _draw(axes, each)
    _finish(axes.xaxis, x, [each.x for each in series], levels)
    ends = [values for each in series for values in (each.y, each.low, each.high)]
    _finish(axes.yaxis, y, ends, levels)
    _legend(axes, columns)
    return figure


@figure_style()
def intervals(
    series: Sequence[Series],
    names: Sequence[str],
    x: Axis,
    title: str,
    *,
    levels: Sequence[Level] = (),
    columns: int = 3,
    line: float = 0.25,
) -> Figure:
    """A line a name, from the top down, with a point (and its interval) of each series on it.

    Args:
        series: ``x`` holds values with ``low`` and ``high`` around them, ``y`` indices of names.
        levels: upright reference lines.
        line: height of a line in inches; more for many series.
    """
    figure, axes = new_figure(1.2 + line * len(names), title)
    count = len(series)
    for place, each in enumerate(series):
        xs, ys = np.asarray(each.x, dtype=float), np.asarray(each.y, dtype=float)
        ys = ys + 0.5 * ((place + 0.5) / count - 0.5) * (count > 1)
        look = {"linestyle": "", "marker": "o", "markersize": 4, "elinewidth": 1.0, **each.look}
        axes.errorbar(xs, ys, xerr=_spread(each, xs), label=each.label or "_", **look)
    ends = [values for each in series for values in (each.x, each.low, each.high)]
    _finish(axes.xaxis, x, ends, levels)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    _legend(axes, columns)
    return figure


@figure_style()
def spans(edges: Mapping[str, Sequence[int]], title: str, words: str) -> Figure:
    """A bar a name, cut at its edges from the highest down; long pieces carry their length."""
    figure, axes = new_figure(1.0 + 0.3 * len(edges), title)
    most = max(cuts[0] for cuts in edges.values())
    for line, cuts in enumerate(reversed(list(edges.values()))):
        for place, (start, stop) in enumerate(pairwise(cuts)):
            colour, ink = ((BLUE, "white"), (PALE, INK))[place % 2]
            length, middle = start - stop, (start + stop) / 2
            axes.barh(line, -length, 0.7, start, color=colour, edgecolor="white", linewidth=0.8)
            if length > most / 16:
                axes.text(middle, line, str(length), ha="center", va="center", color=ink)
    axes.set_xlim(most, 0)
    axes.set_yticks(range(len(edges)), list(edges)[::-1])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(words)
    return figure


@figure_style()
def shape_bars(
    rows: pd.DataFrame,
    by: str,
    names: Sequence[str],
    marks: Mapping[str, Any],
    title: str,
    words: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A bar a group of rows, from the bottom up: the shape of the best plan over λ.

    Args:
        rows: ``eigenvalue``, ascending in each group, and ``shape``, a key of ``SHAPES``; the bar
            of a shape ends halfway between two λ.
        by, names, words: column of the groups, in order, their names and what these are.
        marks: columns that hold a λ for each group, marked on its bar in a line of this style.
        limits: of λ, by default those of the rows.
    """
    groups = [group for _, group in rows.groupby(by)]
    figure, axes = new_figure(2.6 + 0.05 * len(groups), title)
    for shape, (colour, hatch) in SHAPES.items():
        if (rows["shape"] == shape).any():
            axes.barh([0], [0], color=colour, hatch=hatch, edgecolor=GREY, linewidth=0, label=shape)
    for line, group in enumerate(groups):
        _draw_bar(axes, line, group["eigenvalue"].to_numpy(), group["shape"])
        for column, style in marks.items():
            place = [group[column].iloc[0]] * 2
            axes.plot(place, [line - 0.45, line + 0.45], color=INK, linestyle=style)
    values = rows["eigenvalue"]
    log_axis(axes.xaxis, *(limits or (values.min(), values.max())))
    axes.set_yticks(range(len(groups)), list(names))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel(words)
    _legend(axes, columns=4)
    return figure


def _draw_bar(axes: Axes, line: int, values: Array, shapes: Iterable[str]) -> None:
    edges = np.concatenate([values[:1], np.sqrt(values[1:] * values[:-1]), values[-1:]])
    for shape, run in groupby(zip(shapes, pairwise(edges), strict=True), itemgetter(0)):
        ends = [end for _, both in run for end in both]
        colour, hatch = SHAPES[shape]
        width, left = ends[-1] - ends[0], ends[0]
        axes.barh(line, width, 0.9, left, color=colour, hatch=hatch, edgecolor=GREY, linewidth=0)


def _draw(axes: Axes, series: Series) -> None:
    xs, ys, look = np.asarray(series.x), np.asarray(series.y), series.look
    label, spread = series.label or "_", _spread(series, ys)
    if spread is not None and not series.band:
        axes.errorbar(xs, ys, spread, label=label, **{"capsize": 2, "linewidth": 1.0, **look})
        return
    axes.plot(xs, ys, label=label, **look)
    if series.band:
        ends = np.asarray(series.low), np.asarray(series.high)
        axes.fill_between(xs, *ends, color=look.get("color"), alpha=0.2, linewidth=0)


def _spread(series: Series, values: NDArray[Any]) -> NDArray[Any] | None:
    """(2, n) from values down to the low and up to the high ends of their intervals, if any."""
    if series.low is None or series.high is None:
        return None
    return np.maximum([values - np.asarray(series.low), np.asarray(series.high) - values], 0)


def _legend(axes: Axes, columns: int) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.0)


def _finish(
    axis: MatplotlibAxis, spec: Axis, drawn: Sequence[Any], levels: Sequence[Level]
) -> None:
    """Levels, scale, limits, ticks and label of an axis; what is None is left out."""
    name = axis.axis_name  # type: ignore[attr-defined]
    places = [getattr(level, name) for level in levels]
    for level, place in zip(levels, places, strict=True):
        if place is not None:
            (axis.axes.axvline if name == "x" else axis.axes.axhline)(place, **level.look)
    axis.set_label_text(spec.words)
    low, high = spec.limits or _limits(spec, [*drawn, places])
    if spec.log:
        log_axis(axis, low, high)
    else:
        axis.axes.set(**{f"{name}lim": (low, high)})
    if spec.ticks is not None:
        axis.set_ticks(list(spec.ticks), list(spec.ticks.values()))


def _limits(spec: Axis, drawn: Sequence[Any]) -> tuple[float, float]:
    values = np.concatenate([np.ravel(np.asarray(each, dtype=float)) for each in drawn])
    values = values[np.isfinite(values) & ((values > 0) | (not spec.log))]
    if not values.size:
        return 0.1, 1.0
    low, high = float(values.min()), float(values.max())
    if spec.log:
        return low / spec.margin, high * spec.margin
    room = (spec.margin - 1) * ((high - low) or 1.0) / 10
    return low - room, high + room
