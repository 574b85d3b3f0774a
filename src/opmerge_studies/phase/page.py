"""The page of the study `phase`: the phase diagram of merge plans over data variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opmerge.page.layout import Section, draw_section, make_table
from opmerge.page.sentences import number, times
from opmerge.page.strategies import STYLES, draw_shapes, label_shapes
from opmerge.page.study import Answer
from opmerge.plotting import (
    BLUE,
    GREY,
    INK,
    figure_style,
    log_axis,
    new_figure,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Array = NDArray[np.float64]
Record = Mapping[str, Any]
Row = Mapping[str, Any]

_BAND = {
    "boot_to": "BOOT to",
    "band_from": "neither from",
    "band_to": "to",
    "vanilla_from": "vanilla from",
}
_CANONICAL = ("vanilla", "boot", "progressive", "consistency")


def answer(record: Record) -> Answer:
    """What the phase diagram says."""
    crossings = record["tables"]["crossings"]
    threshold = {row["num_steps"]: row["threshold"] for row in crossings}
    rows = _rows(record, "operator-copy")
    below = [row for row in rows if row["eigenvalue"] <= 1]
    above = [row for row in rows if row["eigenvalue"] >= threshold[row["num_steps"]]]
    gain = max(_gain(row) for row in rows)
    return Answer(
        finding=(
            f"Sequential BOOT is best at all {len(below)} points with λ ≤ 1 and vanilla at all "
            f"{len(above)} with λ ≥ λ*(T) ≈ 2; in between neither is, and there the best plan "
            f"errs {_told_gain(gain)}."
            if _confirmed(below, "boot") and _confirmed(above, "vanilla")
            else "The phases are not what theory says: see the table of plans."
        ),
        evidence=[
            *(
                f"T = {row['num_steps']}: BOOT and vanilla cross at λ = "
                f"{_known(row['first_crossing'])}; λ* = {row['threshold']:.5f}; the band begins "
                f"between {_known(row['boot_to'])} and {_known(row['band_from'])} and ends between "
                f"{_known(row['band_to'])} and {_known(row['vanilla_from'])}, points of this grid."
                for row in crossings
            ),
            *_decay_items(crossings),
            *_denoiser_items(_rows(record, "denoiser-copy")),
        ],
        limits=(
            "One eigenvalue, plain cosine schedule, gradient flow for the same time in each merge.",
            "In the band plans are searched for, not proved best: no plan can be below 0, and what "
            "is found there is that near.",
        ),
        overturned_by=("A plan below BOOT at some λ ≤ 1, or below vanilla at some λ ≥ λ*(T).",),
    )


def _told_gain(gain: float) -> str:
    if np.isinf(gain):
        return "nothing that float64 can tell"
    return f"up to {times(gain)} less than the better of the two"


def _decay_items(crossings: Sequence[Row]) -> Iterator[str]:
    if sum(row["first_crossing"] is not None for row in crossings) > 1:
        yield (
            f"The first crossing lies at λ = 1 + {_decay(crossings)}: the transition sharpens as "
            "T grows."
        )


def _denoiser_items(rows: Sequence[Row]) -> Iterator[str]:
    best = sum(row["shape"] == "boot" for row in rows)
    if rows:
        says = "belongs to" if best == len(rows) else "is not confined to"
        yield (
            f"Under denoiser copy BOOT is best at {best} of {len(rows)} points: the transition "
            f"{says} operator copy."
        )


def facts(record: Record) -> list[tuple[str, str]]:
    """The crossings, and how much the best plan gains in the band."""
    rows = _rows(record, "operator-copy")
    return [
        *(
            (f"BOOT meets vanilla, T = {row['num_steps']}", f"λ = {_known(row['first_crossing'])}")
            for row in record["tables"]["crossings"]
        ),
        ("λ and T planned", f"{len(rows)}"),
        ("less error than the better of both", times(max(_gain(row) for row in rows))),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    steps = sorted({row["num_steps"] for row in _rows(record, "operator-copy")})
    yield draw_section(
        "Which plan is best",
        "BOOT, combs (only the student at T is trained, block after block), trees (students inside "
        "blocks are trained too) and vanilla, under operator copy. Dashed: where BOOT and vanilla "
        "cross; dotted: λ*(T).",
        lambda: _phase_figure(record),
        make_table(
            "Transition by T",
            ("T", "first crossing", "crossings", "last", "λ*(T)", *_BAND.values()),
            [
                (
                    str(row["num_steps"]),
                    _known(row["first_crossing"]),
                    str(row["num_crossings"]),
                    _known(row["last_crossing"]),
                    f"{row['threshold']:.6f}",
                    *(_known(row[key]) for key in _BAND),
                )
                for row in record["tables"]["crossings"]
            ],
        ),
    )
    shown = steps[len(steps) // 2]
    yield draw_section(
        "Error over λ",
        "W2 to the teacher, as a multiple of BOOT's. In the band the best plan meets the teacher "
        "and leaves the figure at the bottom.",
        lambda: _error_figure(record, shown),
        _plan_table(record, shown),
    )
    yield draw_section(
        "How many merges the best plan has",
        "T - 1 for BOOT, one for vanilla. The plans in between are in the table of errors.",
        lambda: _merges_figure(record, steps),
    )
    if any(_decay_items(record["tables"]["crossings"])):
        yield draw_section(
            "The crossing tends to 1",
            "Distance of the first crossing of BOOT and vanilla from λ = 1.",
            lambda: _crossing_figure(record),
        )


@figure_style()
def _phase_figure(record: Record) -> Figure:
    crossings = record["tables"]["crossings"]
    figure, axes = new_figure(height=2.8)
    set_title(figure, "Below λ = 1 BOOT is best, above λ*(T) ≈ 2 vanilla; between lies a band")
    for line, crossing in enumerate(crossings):
        rows = [
            r for r in _rows(record, "operator-copy") if r["num_steps"] == crossing["num_steps"]
        ]
        values, shapes = [row["eigenvalue"] for row in rows], [row["shape"] for row in rows]
        draw_shapes(axes, line, values, shapes)
        for value, dash in (
            (crossing["first_crossing"], (0, (3, 1.5))),
            (crossing["threshold"], (0, (1, 1))),
        ):
            if value is not None:
                axes.plot([value] * 2, [line - 0.45, line + 0.45], color=INK, linestyle=dash)
    log_axis(axes.xaxis, 0.5, 4.0)
    axes.set_yticks(range(len(crossings)), [f"T = {row['num_steps']}" for row in crossings])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("data variance λ")
    label_shapes(axes, (row["shape"] for row in _rows(record, "operator-copy")))
    return figure


@figure_style()
def _error_figure(record: Record, num_steps: int) -> Figure:
    rows = _rows(record, "operator-copy", num_steps)
    values = np.array([row["eigenvalue"] for row in rows])
    figure, axes = new_figure(height=3.0)
    set_title(figure, f"No strategy is best on both sides of λ = 1 (T = {num_steps})")
    boot = np.array([row["boot"] for row in rows])
    for name in _CANONICAL:
        ratio = np.array([row[name] for row in rows]) / boot
        axes.plot(values, ratio, **{**STYLES[name], "marker": ""}, label=name)
    best = np.maximum(np.array([row["best"] for row in rows]) / boot, 1e-3)
    axes.plot(values, best, color=INK, linewidth=1.0, linestyle=(0, (1, 1)), label="best plan")
    log_axis(axes.xaxis, float(values[0]), float(values[-1]))
    log_axis(axes.yaxis, 0.02, 50.0)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("W2 to the teacher, BOOT = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


@figure_style()
def _merges_figure(record: Record, steps: Sequence[int]) -> Figure:
    figure, axes = new_figure(height=2.8)
    set_title(figure, "Across the band the best plan falls from T - 1 merges to one")
    dashes: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1.5)), (0, (1, 1)))
    for num_steps, dash in zip(steps, dashes * len(steps), strict=False):
        rows = _rows(record, "operator-copy", num_steps)
        inside = [row for row in rows if 0.9 < row["eigenvalue"] < 2.5]
        axes.step(
            [row["eigenvalue"] for row in inside],
            [row["merges"] for row in inside],
            where="mid",
            color=BLUE if num_steps == steps[0] else INK,
            linestyle=dash,
            linewidth=1.1,
            label=f"T = {num_steps}",
        )
    log_axis(axes.xaxis, 0.9, 2.5)
    log_axis(axes.yaxis, 0.8, 1.3 * max(steps))
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("merges of the best plan")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def _crossing_figure(record: Record) -> Figure:
    rows = [r for r in record["tables"]["crossings"] if r["first_crossing"] is not None]
    steps = np.array([row["num_steps"] for row in rows], dtype=float)
    distance = np.array([row["first_crossing"] - 1 for row in rows])
    figure, axes = new_figure(height=2.6)
    set_title(figure, f"BOOT and vanilla cross at λ = 1 + {_decay(rows)}")
    axes.plot(steps, distance, "o", color=BLUE, markersize=6)
    slope, intercept = np.polyfit(np.log(steps), np.log(distance), 1)
    ends = np.array([steps[0] / 1.2, steps[-1] * 1.2])
    axes.plot(ends, np.exp(intercept) * ends**slope, color=GREY, linestyle=(0, (4, 2)))
    log_axis(axes.xaxis, *ends)
    log_axis(axes.yaxis, distance.min() / 1.5, distance.max() * 1.5)
    axes.set_xlabel("number of teacher steps T")
    axes.set_ylabel("crossing, λ - 1")
    return figure


def _plan_table(record: Record, num_steps: int) -> Any:
    rows = _rows(record, "operator-copy", num_steps)
    return make_table(
        f"Errors and plans at T = {num_steps}",
        ("λ", "best", "bound", *_CANONICAL, "shape", "merges", "plan"),
        [
            (
                f"{row['eigenvalue']:.4g}",
                *(number(row[key]) for key in ("best", "lower_bound", *_CANONICAL)),
                row["shape"],
                str(row["merges"]),
                row["plan"],
            )
            for row in rows
        ],
    )


def _rows(record: Record, rule: str, num_steps: int | None = None) -> list[Row]:
    return [
        row
        for row in record["tables"]["plans"]
        if row["merge_rule"] == rule and num_steps in (None, row["num_steps"])
    ]


def _confirmed(rows: Sequence[Row], strategy: str) -> bool:
    """Whether the strategy is as good as the best plan at every point."""
    return all(row[strategy] <= row["best"] * (1 + 1e-9) for row in rows)


def _gain(row: Row) -> float:
    """How many times less the best plan errs than the better of BOOT and vanilla."""
    better = min(row["boot"], row["vanilla"])
    if row["best"] == 0:
        return float("inf") if better > 0 else 1.0
    return float(better / row["best"])


def _decay(crossings: Sequence[Row]) -> str:
    """The power law of the crossing's distance from 1 in T."""
    rows = [row for row in crossings if row["first_crossing"] is not None]
    steps = np.log([row["num_steps"] for row in rows])
    slope, intercept = np.polyfit(steps, np.log([r["first_crossing"] - 1 for r in rows]), 1)
    return f"{np.exp(intercept):.2g} / T^{-slope:.2f}"


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"
