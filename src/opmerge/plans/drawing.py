"""Plans drawn, as a figure of merges over the steps T … 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.plotting import INK, figure_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLOSEST_MARKS = 3.0  # points between marks that the eye can still tell apart
_AXES_POINTS = 250.0  # width of the axes of a figure of the usual width
_MOST_SEPARATE_ROWS = 50  # of more rounds, the bars touch
_TOUCHING = 0.5  # half the height of a bar that fills its row
_COLOURS, _PALEST = "YlGnBu", 40  # lightness falls all the way, so it reads in greyscale


def plan_from_merges(
    merges: Sequence[Mapping[str, Any]], boundaries: Sequence[int], has_free_step: bool = False
) -> Plan:
    """The plan of a record's merges and (T, …, 0), or ``InputError`` if they do not form one.

    With a free step the first two boundaries are its ends.
    """
    every = [Merge(tuple(merge["boundaries"])) for merge in merges]
    trees = (
        Tree(above, below, tuple(m for m in every if below <= m.stop and m.start <= above))
        for above, below in pairwise(boundaries[has_free_step:])
    )
    return Plan(tuple(trees), boundaries[0] if has_free_step else None)


def recorded_plan(entry: Mapping[str, Any]) -> Plan:
    """The plan of a record's entry: ``merge_list``, ``boundaries`` and, with one, ``free_step``."""
    return plan_from_merges(entry["merge_list"], entry["boundaries"], "free_step" in entry)


@figure_style()
def plan_figure(
    merges: Sequence[Mapping[str, Any]],
    boundaries: Sequence[int],
    title: str = "",
    has_free_step: bool = False,
    words: str = "share of the squared error (%)",
) -> Figure:
    """Each merge as a bar over the steps that it jumps over, in the round in which it is trained.

    A merge has its ``boundaries`` (j, k_1, …, i) and its ``share`` of what the words say; at the
    ``boundaries`` (T, …, 0) of the plan one student hands over to the next. The first two may be
    those of a free step, which is hatched. The title is by default the number of merges.
    ``InputError`` says if all this forms no plan.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    plan = plan_from_merges(merges, boundaries, has_free_step)
    last = max(plan.rounds(), default=0)
    share_of = {tuple(merge["boundaries"]): 100 * merge["share"] for merge in merges}
    shares = [share_of[merge.boundaries] for merge in plan.merges]
    height = (1.9 if shares else 1.2) + min(0.15 * last, 2.1)
    figure, axes = new_figure(height, title or f"Merges: {len(shares)}, in rounds: {last}")
    half = 0.42 if last <= _MOST_SEPARATE_ROWS else _TOUCHING
    axes.axhspan(-half, half, color="#dcdcdc", linewidth=0)
    if shares:
        _draw_bars(figure, axes, plan, shares, half, words)
    _draw_marks(axes, plan, half)
    if plan.free_step is not None:
        ends = (plan.num_steps, plan.free_step)
        axes.fill_between(ends, -half, half, hatch="////", facecolor="none", edgecolor=INK, lw=0)
    for boundary in plan.boundaries[1:-1]:
        axes.axvline(boundary, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_xlim(plan.num_steps, 0)
    axes.set_xticks(_step_ticks(plan))
    axes.set_xlabel("step t (noise left, data right)")
    axes.set_ylim(-0.55, last + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True) if last else FixedLocator([0]))
    axes.set_ylabel("round")
    return figure


def _draw_bars(
    figure: Figure, axes: Axes, plan: Plan, shares: Sequence[float], half: float, words: str
) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    corners = [
        [(m.start, r - half), (m.stop, r - half), (m.stop, r + half), (m.start, r + half)]
        for m, r in zip(plan.merges, plan.rounds(), strict=True)
    ]
    bars = PolyCollection(
        corners,
        array=shares,
        cmap=ListedColormap(colormaps[_COLOURS](range(_PALEST, 256))),
        norm=Normalize(0, max(shares) or 1),
        edgecolor="face",
        linewidth=0 if half < _TOUCHING else 0.3,  # no light seams between bars that touch
        clip_on=False,
    )
    axes.add_collection(bars)
    bar = figure.colorbar(bars, ax=axes, location="bottom", aspect=36, pad=0.03)
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.set_label(words)
    bar.outline.set_visible(False)


def _draw_marks(axes: Axes, plan: Plan, half: float) -> None:
    """Marks where the operators that a bar replaces meet, as far as the eye can tell them apart."""
    points = _AXES_POINTS / plan.num_steps
    marks = [
        (here, round_, min(above - here, here - below) * points)
        for merge, round_ in zip(plan.merges, plan.rounds(), strict=True)
        for (above, here), (_, below) in pairwise(pairwise(merge.boundaries))
    ]
    marks += [(t, 0, points) for t in range(1, plan.num_steps)]
    every = np.array(marks).reshape(-1, 3)
    x, row, space = every[every[:, 2] >= _CLOSEST_MARKS].T
    axes.vlines(x, row - half, row + half, color="white", linewidth=np.minimum(0.8, 0.15 * space))


def _step_ticks(plan: Plan) -> list[int]:
    steps, boundaries = plan.num_steps, plan.boundaries
    if len(boundaries) > 2 and min(a - b for a, b in pairwise(boundaries)) >= steps / 12:
        return list(boundaries)
    parts = min(steps, 4)
    return [round(steps * k / parts) for k in range(parts + 1)]
