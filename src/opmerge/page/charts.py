"""The chart forms that most figures are, each drawn once and shown in a page and as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.layout import Section, Table, draw_section
from opmerge.page.strategies import STYLES
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
    set_title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MatplotlibAxis
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

DASHED, DOTTED = (0, (3, 1.5)), (0, (1, 1))
DASHES: Sequence[Any] = ("-", DASHED, DOTTED, (0, (6, 1.5, 1, 1.5)))
"""Of the first, second, … line of a chart without markers."""
LOOKS: Sequence[Mapping[str, Any]] = [
    {"color": colour, "marker": marker, "markersize": 4}
    for colour, marker in zip((BLUE, ORANGE, GREEN, GREY, INK, PALE, INK), "os^vxDP", strict=True)
]
"""Colour and marker of the first, second, … group of a chart."""


@dataclass(frozen=True)
class Axis:
    """What stands on an axis.

    Args:
        words: its label, with the unit.
        limits: lowest and highest value; by default those of the data, by ``margin``.
        margin: factor of room around the data (of a linear axis: share of their range).
        log: whether it is logarithmic.
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
        low, high: (n,) ends of an interval around y, drawn as bars (or ``band``).
        look: matplotlib's properties of a line; ``drawstyle="steps-mid"`` draws steps.
        band: draw the interval as a band.
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
    """A section of a page: ``curves`` (which see for ``more``) under a heading, with a table."""
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
    """A series for each value of a column, in the order of the rows, with looks of their own.

    Args:
        rows: a long table.
        by: column of the names.
        x, y: columns of the places.
        looks: properties of a line by name.
        dashes: tell lines apart by dashes instead of markers.
        more: properties of every line.
    """
    dashed = [{"linestyle": dash, "marker": ""} for dash in DASHES] if dashes else [{}]
    return [
        Series(str(name), own[x], own[y], {**look, **dash, **(looks or {}).get(name, {}), **more})
        for look, dash, (name, own) in zip(
            cycle(LOOKS), cycle(dashed), rows.groupby(by, sort=False), strict=False
        )
    ]


def series_of(
    rows: pd.DataFrame, x: str, columns: Iterable[str], over: str = "", **more: Any
) -> list[Series]:
    """A series for each column, such as the errors of the named strategies, in their styles.

    Args:
        rows: a wide table.
        x: column of the places.
        columns: columns drawn, by whose names they are called.
        over: column that each is divided by.
        more: properties of every line.
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

    Args:
        series: what is drawn, in the order of the legend.
        x, y: the axes.
        title: what is seen, in one sentence.
        levels: reference lines, which axes make room for.
        height: in inches.
        columns: of the legend.
    """
    figure, axes = new_figure(height)
    set_title(figure, title)
    for each in series:
        _draw(axes, each)
    for level in levels:
        if level.y is not None:
            axes.axhline(level.y, **level.look)
        if level.x is not None:
            axes.axvline(level.x, **level.look)
    _finish(axes.xaxis, x, [each.x for each in series], [level.x for level in levels])
    _finish(axes.yaxis, y, _all_of(series, "y"), [level.y for level in levels])
    _legend(axes, series, columns)
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
        names: of the lines.
        x: the axis of values.
        title: what is seen.
        levels: upright reference lines.
        columns: of the legend.
        line: height of a line in inches; more for many series.
    """
    figure, axes = new_figure(height=1.2 + line * len(names))
    set_title(figure, title)
    count = len(series)
    for place, each in enumerate(series):
        xs, ys = np.asarray(each.x, dtype=float), np.asarray(each.y, dtype=float)
        ys = ys + 0.5 * ((place + 0.5) / count - 0.5) * (count > 1)
        spread = None
        if each.low is not None and each.high is not None:
            spread = np.maximum([xs - np.asarray(each.low), np.asarray(each.high) - xs], 0)
        look = {"linestyle": "", "marker": "o", "markersize": 4, "elinewidth": 1.0, **each.look}
        axes.errorbar(xs, ys, xerr=spread, label=each.label or "_", **look)
    for level in levels:
        if level.x is not None:
            axes.axvline(level.x, **level.look)
    _finish(axes.xaxis, x, _all_of(series, "x"), [level.x for level in levels])
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    _legend(axes, series, columns)
    return figure


@figure_style()
def spans(edges: Mapping[str, Sequence[int]], title: str, words: str) -> Figure:
    """A bar a name, cut at its edges from the highest down; long pieces carry their length."""
    figure, axes = new_figure(height=1.0 + 0.3 * len(edges))
    set_title(figure, title)
    most = max(cuts[0] for cuts in edges.values())
    for line, cuts in enumerate(reversed(list(edges.values()))):
        for place, (start, stop) in enumerate(pairwise(cuts)):
            colour, ink = ((BLUE, "white"), (PALE, INK))[place % 2]
            axes.barh(
                line, stop - start, 0.7, start, color=colour, edgecolor="white", linewidth=0.8
            )
            if start - stop > most / 16:
                middle = (start + stop) / 2
                axes.text(middle, line, str(start - stop), ha="center", va="center", color=ink)
    axes.set_xlim(most, 0)
    axes.set_yticks(range(len(edges)), list(edges)[::-1])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(words)
    return figure


def _draw(axes: Axes, series: Series) -> None:
    xs, ys, look = np.asarray(series.x), np.asarray(series.y), series.look
    label = series.label or "_"
    if series.low is None or series.high is None:
        axes.plot(xs, ys, label=label, **look)
        return
    low, high = np.asarray(series.low), np.asarray(series.high)
    if series.band:
        axes.plot(xs, ys, label=label, **look)
        axes.fill_between(xs, low, high, color=look.get("color"), alpha=0.2, linewidth=0)
        return
    spread = np.maximum([ys - low, high - ys], 0)
    axes.errorbar(xs, ys, spread, label=label, **{"capsize": 2, "linewidth": 1.0, **look})


def _all_of(series: Sequence[Series], key: str) -> list[ArrayLike]:
    """Everything that is drawn along an axis, intervals included."""
    each = [values for one in series for values in (getattr(one, key), one.low, one.high)]
    return [values for values in each if values is not None]


def _legend(axes: Axes, series: Sequence[Series], columns: int) -> None:
    if any(each.label for each in series):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.0)


def _finish(
    axis: MatplotlibAxis, spec: Axis, drawn: Sequence[ArrayLike], levels: Sequence[float | None]
) -> None:
    """Scale, limits, ticks and label of an axis."""
    axis.set_label_text(spec.words)
    low, high = spec.limits or _limits(spec, drawn, levels)
    if spec.log:
        log_axis(axis, low, high)
    else:
        axes = axis.axes
        (axes.set_xlim if axis.axis_name == "x" else axes.set_ylim)(low, high)  # type: ignore[attr-defined]
    if spec.ticks is not None:
        axis.set_ticks(list(spec.ticks), list(spec.ticks.values()))


def _limits(
    spec: Axis, drawn: Sequence[ArrayLike], levels: Sequence[float | None]
) -> tuple[float, float]:
    values = np.concatenate([np.ravel(np.asarray(each, dtype=float)) for each in drawn])
    values = np.append(values, [level for level in levels if level is not None])
    values = values[np.isfinite(values) & ((values > 0) | (not spec.log))]
    if not values.size:
        return 0.1, 1.0
    low, high = float(values.min()), float(values.max())
    if spec.log:
        return low / spec.margin, high * spec.margin
    room = (spec.margin - 1) * ((high - low) or 1.0) / 10
    return low - room, high + room
