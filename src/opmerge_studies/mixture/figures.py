"""Figures of the study `mixture`, each from the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.sentences import number, percent
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
    "REGIMES",
    "dimensions",
    "distances",
    "gains",
    "growth",
    "handovers",
    "merges",
    "one_step",
    "signals",
    "student_steps",
]

Row = Mapping[str, Any]

REGIMES = ("narrow", "straddling", "wide")

_COLOURS = {"narrow": BLUE, "straddling": INK, "wide": ORANGE}
_STRATEGIES = {
    "vanilla": (ORANGE, "s"),
    "progressive": (GREEN, "^"),
    "consistency": (GREY, "D"),
    "boot": (BLUE, "o"),
}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)))
_LEAST = 1e-7  # of what a logarithmic axis shows


@figure_style()
def one_step(rows: Sequence[Row]) -> Figure:
    """Each strategy's error above the affine floor."""
    figure, axes = new_figure(height=3.3)
    worst = max(row[name] / row["bound"] - 1 for row in rows for name in _STRATEGIES)
    vanilla = max(row["vanilla"] / row["bound"] - 1 for row in rows)
    set_title(
        figure,
        f"At one step vanilla is within {percent(vanilla)} of the nearest affine map, every "
        f"strategy within {percent(worst)}",
    )
    cases = _cases(rows)
    for place, (name, (colour, marker)) in enumerate(_STRATEGIES.items()):
        for rule in ("operator-copy", "denoiser-copy"):
            chosen = [row for row in rows if row["merge_rule"] == rule]
            heights = [cases.index(_case(row)) + 0.18 * (place - 1.5) for row in chosen]
            axes.plot(
                [max(row[name] / row["bound"] - 1, _LEAST) for row in chosen],
                heights,
                marker,
                color=colour,
                markersize=4.5,
                fillstyle="full" if rule == "operator-copy" else "none",
                label=name if rule == "operator-copy" else None,
            )
    log_axis(axes.xaxis, _LEAST / 2, 3 * worst)
    _name_cases(axes, cases)
    axes.set_xlabel("error above the floor, as a part of it")
    _legend(axes, 2)
    return figure


@figure_style()
def handovers(rows: Sequence[Row]) -> Figure:
    """Best error of two-step students by the step of the handover."""
    figure, axes = new_figure(height=3.3)
    rows = [row for row in rows if row["merge_rule"] == "operator-copy"]
    spread = max(_multiples(rows, case)[1].max() for case in _cases(rows))
    set_title(figure, f"Handing over at a wrong step costs up to {number(spread)} times the error")
    for case, line in _lines(rows):
        places, multiples = _multiples(rows, case)
        axes.plot(places, multiples, marker="o", markersize=3, **line)
    log_axis(axes.yaxis, 0.93, 1.2 * spread)
    axes.set_xlabel("step t of the handover (data on the left)")
    axes.set_ylabel("error, best handover = 1")
    axes.set_xticks(sorted({row["handover"] for row in rows}))
    _legend(axes, 2)
    return figure


@figure_style()
def student_steps(rows: Sequence[Row]) -> Figure:
    """Error and approximation error by the number of student steps, furthest apart."""
    figure, axes = new_figure(height=3.2)
    furthest = max(row["separation"] for row in rows)
    rows = [
        row
        for row in rows
        if row["separation"] == furthest
        and row["plan"] == "boot"
        and row["merge_rule"] == "operator-copy"
    ]
    last = max(row["student_steps"] for row in rows)
    ratios = [row["error"] / row["approximation"] for row in rows if row["student_steps"] == last]
    set_title(
        figure,
        f"The floor falls with student steps; at {last} what training leaves is "
        f"{number(min(ratios))} to {number(max(ratios))} times as large",
    )
    for regime in REGIMES:
        chosen = [row for row in rows if row["regime"] == regime]
        counts = [row["student_steps"] for row in chosen]
        colour = _COLOURS[regime]
        errors = [row["error"] for row in chosen]
        axes.plot(counts, errors, "o-", markersize=4, color=colour, label=regime)
        axes.plot(
            counts,
            [row["approximation"] for row in chosen],
            "o",
            markersize=4,
            linestyle=(0, (2, 1.5)),
            color=colour,
            fillstyle="none",
        )
    axes.plot([], [], color=GREY, linestyle=(0, (2, 1.5)), label="trained to the end")
    values = [row[key] for row in rows for key in ("error", "approximation")]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["student_steps"] for row in rows}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    log_axis(axes.yaxis, min(values) / 1.5, max(values) * 1.5)
    axes.set_xlabel("student steps K")
    axes.set_ylabel("error (root mean square)")
    _legend(axes, 2)
    return figure


@figure_style()
def merges(rows: Sequence[Row]) -> Figure:
    """Floor, optimisation error and distance to the teacher, merge by merge of BOOT."""
    figure, axes = new_figure(height=3.0)
    rows = [row for row in rows if row["plan"] == "boot"]
    left = sum(row["optimisation"] ** 2 for row in rows)
    share = left / (left + sum(row["floor"] ** 2 for row in rows))
    set_title(
        figure,
        f"BOOT's merges err by their floors: optimisation is {percent(share)} of the squares"
        if share < 0.5
        else f"BOOT's merges err by optimisation: {percent(share)} of the squares",
    )
    reached = [row["stop"] for row in rows]
    for key, colour, marker, label in (
        ("to_teacher", INK, "s", "student to teacher"),
        ("floor", BLUE, "o", "floor"),
        ("optimisation", ORANGE, "^", "optimisation"),
    ):
        values = [max(row[key], _LEAST) for row in rows]
        axes.plot(reached, values, marker=marker, markersize=3.5, color=colour, label=label)
    axes.invert_xaxis()
    least = min(row[key] for row in rows for key in ("floor", "optimisation", "to_teacher"))
    log_axis(axes.yaxis, max(least, _LEAST) / 2, 3.0)
    axes.set_xlabel("step t that the student has reached")
    axes.set_ylabel("error of a merge")
    _legend(axes, 2)
    return figure


@figure_style()
def distances(rows: Sequence[Row]) -> Figure:
    """BOOT over vanilla while two equal components move apart."""
    figure, axes = new_figure(height=2.9)
    furthest = max(row["separation"] for row in rows)
    end = max(abs(r["boot"] / r["vanilla"] - 1) for r in rows if r["separation"] == furthest)
    set_title(
        figure, f"Once components are apart the two strategies differ by {percent(end)} at most"
    )
    for variance, colour in zip(
        sorted({row["variance"] for row in rows}), (BLUE, ORANGE), strict=False
    ):
        line = [row for row in rows if row["variance"] == variance]
        axes.plot(
            [row["separation"] for row in line],
            [row["boot"] / row["vanilla"] for row in line],
            color=colour,
            label=f"λ = {variance:g}",
        )
    axes.axhline(1.0, color=GREY, linewidth=0.7)
    places = [row["separation"] for row in rows]
    log_axis(axes.xaxis, min(places), max(places))
    axes.set_xlabel("means of the components, ±")
    axes.set_ylabel("error of BOOT, vanilla = 1")
    _legend(axes, 2)
    return figure


@figure_style()
def signals(rows: Sequence[Row]) -> Figure:
    """One-step students by the signal of their first state, furthest apart."""
    figure, axes = new_figure(height=3.2)
    furthest = max(row["separation"] for row in rows)
    rows = [row for row in rows if row["separation"] == furthest]
    weakest = min(row["signal"] for row in rows if row["signal"] > 0)
    weak = [row for row in rows if row["signal"] == weakest]
    floor, error = (
        float(np.median([row[key] / row["affine"] for row in weak])) for key in ("floor", "vanilla")
    )
    set_title(
        figure,
        f"With alpha_T = {weakest:g} the floor is {percent(floor)} of the nearest affine map, "
        f"the error {percent(error)}",
    )
    for regime in REGIMES:
        chosen = [row for row in rows if row["regime"] == regime and row["signal"] > 0]
        for key, dash in (("vanilla", "-"), ("floor", (0, (2, 1.5)))):
            axes.plot(
                [row["signal"] for row in chosen],
                [row[key] / row["affine"] for row in chosen],
                marker="o",
                markersize=3,
                color=_COLOURS[regime],
                linestyle=dash,
                label=regime if key == "vanilla" else None,
            )
    axes.plot([], [], color=GREY, linestyle=(0, (2, 1.5)), label="trained to the end")
    log_axis(axes.xaxis, weakest / 1.1, 1.0)
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("signal alpha_T of the first state")
    axes.set_ylabel("error, nearest affine map = 1")
    _legend(axes, 2)
    return figure


@figure_style()
def growth(rows: Sequence[Row]) -> Figure:
    """Formal and effective number of affine maps from noise to z_t."""
    figure, axes = new_figure(height=3.2)
    start = max(row["start"] for row in rows)
    rows = [row for row in rows if row["start"] == start]
    ends = [row["effective_paths"] for row in rows if row["stop"] == 0]
    set_title(
        figure,
        f"Composites of {start} steps mix {min(ends):,.0f} to {max(ends):,.0f} affine maps",
    )
    for case, line in _lines(rows):
        chosen = [row for row in rows if _case(row) == case]
        axes.plot(
            [row["stop"] for row in chosen], [row["effective_paths"] for row in chosen], **line
        )
    formal = {row["stop"]: row["paths"] for row in rows}
    axes.plot(list(formal), list(formal.values()), color=GREY, linestyle=":", label="written out")
    axes.invert_xaxis()
    log_axis(axes.yaxis, 1.0, 2 * max(formal.values()))
    axes.set_xlabel("step t reached from noise")
    axes.set_ylabel("affine maps mixed")
    _legend(axes, 2)
    return figure


@figure_style()
def gains(rows: Sequence[Row]) -> Figure:
    """Typical and largest gain from z_t to the data, furthest apart."""
    figure, axes = new_figure(height=3.2)
    furthest = max(row["separation"] for row in rows)
    rows = [row for row in rows if row["stop"] == 0 and row["separation"] == furthest]
    rows = sorted(rows, key=lambda row: int(row["start"]))
    worst = max(row["largest_gain"] for row in rows)
    set_title(figure, f"Between components an error grows up to {number(worst)} times")
    for regime in REGIMES:
        chosen = [row for row in rows if row["regime"] == regime]
        steps = [row["start"] for row in chosen]
        for key, dash in (("largest_gain", "-"), ("gain", (0, (4, 1.5))), ("gaussian_gain", ":")):
            axes.plot(
                steps,
                [row[key] for row in chosen],
                color=_COLOURS[regime],
                linestyle=dash,
                label=regime if key == "largest_gain" else None,
            )
    for dash, label in ((("-"), "largest"), ((0, (4, 1.5)), "typical"), (":", "one Gaussian")):
        axes.plot([], [], color=GREY, linestyle=dash, label=label)
    log_axis(axes.yaxis, 0.5, 1.5 * worst)
    axes.set_xlabel("step t at which the error is made")
    axes.set_ylabel("gain from z_t to the data")
    _legend(axes, 3)
    return figure


@figure_style()
def dimensions(rows: Sequence[Row]) -> Figure:
    """Strategies over vanilla with confidence intervals."""
    figure, axes = new_figure(height=3.2)
    cases = list(dict.fromkeys((row["mixture"], row["student_steps"]) for row in rows))
    ratios = np.array([row["ratio"] for row in rows])
    set_title(
        figure,
        f"On samples the strategies lie between {percent(ratios.min() - 1)} and "
        f"+{percent(ratios.max() - 1)} of vanilla",
    )
    others = [item for item in _STRATEGIES.items() if item[0] != "vanilla"]
    for place, (name, (colour, marker)) in enumerate(others):
        chosen = [row for row in rows if row["plan"] == name]
        axes.errorbar(
            [row["ratio"] for row in chosen],
            [
                cases.index((row["mixture"], row["student_steps"])) + 0.2 * (place - 1)
                for row in chosen
            ],
            xerr=[row["ratio_half_width"] for row in chosen],
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1,
            label=name,
        )
    axes.axvline(1.0, color=GREY, linewidth=0.7)
    axes.set_yticks(range(len(cases)), [f"{name}, K = {count}" for name, count in cases])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("error, vanilla = 1")
    _legend(axes, 2)
    return figure


def _case(row: Row) -> tuple[str, float]:
    return row["regime"], row["separation"]


def _cases(rows: Sequence[Row]) -> list[tuple[str, float]]:
    return list(dict.fromkeys(map(_case, rows)))


def _lines(rows: Sequence[Row]) -> list[tuple[tuple[str, float], dict[str, Any]]]:
    """Every case with its colour, by regime, and its dash, by separation."""
    separations = sorted({row["separation"] for row in rows}, reverse=True)
    return [
        (
            case,
            {
                "color": _COLOURS[case[0]],
                "linestyle": _DASHES[separations.index(case[1]) % len(_DASHES)],
                "label": f"{case[0]} ±{case[1]:g}",
            },
        )
        for case in _cases(rows)
    ]


def _multiples(rows: Sequence[Row], case: tuple[str, float]) -> tuple[Any, Any]:
    chosen = [row for row in rows if _case(row) == case]
    errors = np.array([row["error"] for row in chosen])
    return [row["handover"] for row in chosen], errors / errors.min()


def _name_cases(axes: Axes, cases: Sequence[tuple[str, float]]) -> None:
    axes.set_yticks(range(len(cases)), [f"{regime} ±{place:g}" for regime, place in cases])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        columnspacing=1.0,
        labelspacing=0.3,
    )
