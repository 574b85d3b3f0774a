"""How pages draw the named strategies and the shapes of plans: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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
        by: column of the groups, in order.
        names: of the bars.
        marks: columns that hold a λ for each group, marked on its bar in a line of this style.
        title: what is seen.
        words: label of the groups.
        limits: of λ, by default those of the rows.
    """
    groups = [group for _, group in rows.groupby(by)]
    figure, axes = new_figure(height=2.6 + 0.05 * len(groups))
    set_title(figure, title)
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
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, columnspacing=1.0)
    return figure


def _draw_bar(axes: Axes, line: int, values: NDArray[np.float64], shapes: Iterable[str]) -> None:
    edges = np.concatenate([values[:1], np.sqrt(values[1:] * values[:-1]), values[-1:]])
    place = 0
    for shape, run in groupby(shapes):
        end = place + len(list(run))
        colour, hatch = SHAPES[shape]
        width, left = edges[end] - edges[place], edges[place]
        axes.barh(line, width, 0.9, left, color=colour, hatch=hatch, edgecolor=GREY, linewidth=0)
        place = end
