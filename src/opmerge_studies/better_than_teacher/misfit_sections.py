"""How pages tell of teachers under capacity: limits, gains and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.layout import Table, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.strategies import STYLES
from opmerge.plotting import GREY, figure_style, log_axis, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RULES", "best_misfit", "misfit_figure", "misfit_sentences", "misfit_table"]

Record = Mapping[str, Any]

RULES = ("operator-copy", "denoiser-copy")

_STRATEGIES = ("vanilla", "progressive", "consistency", "boot")
_NOTICED = 1e-3  # relative gain below which nobody would notice
_LABELS = {
    "exact": "optimal",
    "rank, rest 0": "rank {:g}, rest 0",
    "rank, rest mean": "rank {:g}, rest at mean",
    "biased": "covariance times {:g}",
    "samples": "{:g} samples",
}


def misfit_sentences(record: Record) -> Iterator[str]:
    """What students gain over each teacher, by rule."""
    for rule in RULES:
        told = []
        for (limit, size), best in _misfits(record, rule).items():
            ratio, name = min((best[name], name) for name in _STRATEGIES)
            if ratio < 1 - _NOTICED:
                told.append(f"{_LABELS[limit].format(size)} {percent(1 - ratio)} ({name})")
        yield (
            f"Gain over the teacher at the best s, {rule.replace('-', ' ')}: "
            f"{'; '.join(told) if told else 'none'}."
        )
    yield (
        "Overshooting helps a teacher that spreads too little, shrinking one that spreads too "
        "much: operator copy does the first below λ = 1 and the second above 2, denoiser copy the "
        "second everywhere."
    )


@figure_style()
def misfit_figure(record: Record, rule: str) -> Figure:
    """W2 to the data of each strategy at its best s, teacher by teacher."""
    found = _misfits(record, rule)
    figure, axes = new_figure(height=1.2 + 0.17 * len(found))
    nearer = sum(min(best.values()) < 1 - _NOTICED for best in found.values())
    set_title(
        figure, f"Under {rule.replace('-', ' ')} {nearer} of {len(found)} teachers are overtaken"
    )
    lowest = 1.0
    for line, best in enumerate(found.values()):
        for name in _STRATEGIES:
            style = {key: STYLES[name][key] for key in ("color", "marker")}
            axes.plot(best[name], line, linestyle="", markersize=4, **style)
            lowest = min(lowest, best[name])
    for name in _STRATEGIES:
        style = {key: STYLES[name][key] for key in ("color", "marker")}
        axes.plot([], [], linestyle="", markersize=4, label=name, **style)
    axes.axvline(1.0, color=GREY, linewidth=0.7)
    axes.set_yticks(range(len(found)), [_LABELS[limit].format(size) for limit, size in found])
    axes.invert_yaxis()
    log_axis(axes.xaxis, lowest / 1.2, 3.0)
    axes.set_xlabel("W2 at the best s, teacher = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


def misfit_table(record: Record, rule: str) -> Table:
    """Every number."""
    rows = [row for row in record["tables"]["misfits"] if row["merge_rule"] == rule]
    return make_table(
        f"W2 to the data, {rule.replace('-', ' ')}",
        ("teacher's covariance", "draw", "s", "teacher", *_STRATEGIES),
        [
            (
                _LABELS[row["limit"]].format(row["size"]),
                str(row["seed"]),
                f"{row['time']:g}",
                *(number(row[key]) for key in ("teacher", *_STRATEGIES)),
            )
            for row in rows
        ],
    )


def best_misfit(record: Record) -> str:
    """The largest gain over a teacher under capacity, by rule."""
    told = []
    for rule in RULES:
        ratio, name, key = min(
            (best[name], name, key)
            for key, best in _misfits(record, rule).items()
            if key[0] != "exact"
            for name in _STRATEGIES
        )
        told.append(
            f"{percent(1 - ratio)} by {rule.replace('-', ' ')} "
            f"({_LABELS[key[0]].format(key[1])}, {name})"
        )
    return " and ".join(told)


def _misfits(record: Record, rule: str) -> dict[tuple[str, float], dict[str, float]]:
    """Of each limited teacher: by strategy, the mean over draws of W2 over the teacher's, least
    over s."""
    rows = [row for row in record["tables"]["misfits"] if row["merge_rule"] == rule]
    found: dict[tuple[str, float], dict[str, float]] = {}
    for key in dict.fromkeys((row["limit"], row["size"]) for row in rows):
        here = [row for row in rows if (row["limit"], row["size"]) == key]
        found[key] = {
            name: min(
                float(np.mean([row[name] / row["teacher"] for row in run]))
                for _, run in groupby(sorted(here, key=_time), key=_time)
            )
            for name in _STRATEGIES
        }
    return found


def _time(row: Mapping[str, Any]) -> float:
    return float(row["time"])
