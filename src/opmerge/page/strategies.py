"""How pages draw the named strategies and the shapes of plans: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.plotting import BLUE, GREEN, GREY, INK, ORANGE, PALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SHAPES", "STYLES", "draw_shapes", "label_shapes"]

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


def draw_shapes(
    axes: Axes, line: float, eigenvalues: Sequence[float], shapes: Sequence[str]
) -> None:
    """A bar at height ``line``: the shape of the best plan over λ, on a logarithmic axis.

    Args:
        axes: where to draw.
        line: height of the bar's middle.
        eigenvalues: (n,) ascending.
        shapes: (n,) keys of ``SHAPES``; a bar ends halfway between two λ.
    """
    values = np.asarray(eigenvalues)
    edges = np.concatenate([values[:1], np.sqrt(values[1:] * values[:-1]), values[-1:]])
    place = 0
    for shape, run in groupby(shapes):
        end = place + len(list(run))
        colour, hatch = SHAPES[shape]
        width = float(edges[end] - edges[place])
        left = float(edges[place])
        axes.barh(line, width, 0.9, left, color=colour, hatch=hatch, edgecolor=GREY, linewidth=0)
        place = end


def label_shapes(axes: Axes, shapes: Iterable[str]) -> None:
    """The legend of the shapes that occur."""
    present = set(shapes)
    for shape, (colour, hatch) in SHAPES.items():
        if shape in present:
            axes.barh([0], [0], color=colour, hatch=hatch, edgecolor=GREY, linewidth=0, label=shape)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, columnspacing=1.0)
