"""The page of the study `students`: what each student step is worth, and where it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

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
from opmerge.reports.layout import Section, Table, draw_section, make_table
from opmerge.reports.sentences import number, percent, short_name, times
from opmerge.reports.study import Answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_UNIFORM = ("vanilla", "progressive", "consistency", "boot")
_STYLES = (
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (GREY, "v"),
    (INK, "x"),
    ("#a6cee3", "D"),
    (INK, "P"),
)
_EQUAL = 1e-9  # relative difference of two distances that is rounding


def answer(record: Record) -> Answer:
    """What steps are worth, and where they should be."""
    time = record["settings"]["merge_times"][-1]
    rows = _rows(record, "teacher", time)
    gains = {source: _gain(_of(rows, source)) for source in _sources(record)}
    least, most = (pick(gains, key=lambda source: gains[source]) for pick in (min, max))
    last = record["settings"]["student_steps"][-1]
    hurt = [row for row in _several(rows) if _best_uniform(row) > _first(rows, row)["best"]]
    return Answer(
        finding=(
            f"{last} steps instead of one cut the error {times(gains[most])} for "
            f"{_called(most)} but {times(gains[least])} for {_called(least)}, and where they stand "
            f"decides: on uniform windows {len(hurt)} of {len(_several(rows))} students of several "
            f"steps err more than the best student of one (s = {time:g})."
        ),
        evidence=(
            *(_place_sentence(_of(rows, source)) for source in _sources(record)),
            _moved_sentence(rows),
            *(_data_sentence(record, source) for source in _sources(record)),
        ),
        limits=(
            f"T = {record['settings']['num_steps']}, plain cosine schedule, operator copy, the "
            "same s in every merge, whatever a plan costs to train.",
            f"{_open_count(record)} of {len(record['tables']['students'])} plans are not proved "
            "best: most of them aim at the data for several eigenvalues.",
            "Gaussian data: one step could do without error if trained for long. Of data that one "
            "linear step cannot reach this says nothing.",
        ),
        overturned_by=(
            "A uniform student with less error than the planner's on the same problem;",
            "real networks whose students of several uniform steps follow the teacher better than "
            "those whose steps stand where the planner puts them.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The gain of the last number of steps where it is most and least, and of the boundaries."""
    settings = record["settings"]
    rows = _rows(record, "teacher", settings["merge_times"][-1])
    last = settings["student_steps"][-1]
    ordered = sorted(_sources(record), key=lambda source: _gain(_of(rows, source)))
    told = [
        (f"{_called(source)}: error of 1 step over {last}", times(_gain(_of(rows, source))))
        for source in dict.fromkeys((ordered[-1], ordered[0]))
    ]
    worst = max(_several(rows), key=lambda row: _best_uniform(row) / row["best"], default=None)
    if worst is None:
        return told
    ratio = times(_best_uniform(worst) / worst["best"])
    place = f"{_called(worst['source'])}, K = {worst['student_steps']}"
    return [*told, (f"uniform windows over the planner's, {place}", ratio)]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    settings = record["settings"]
    for time in reversed(settings["merge_times"]):
        yield draw_section(
            f"Error by number of steps, s = {time:g}",
            "W2 to the teacher as a multiple of that of the best one-step student. Solid: the "
            "planner's windows; dashed: the best named strategy on uniform windows.",
            lambda time=time: _error_figure(record, time),  # type: ignore[misc]
            _error_table(record, "teacher", time),
        )
    shown = [count for count in settings["student_steps"] if count > 1]
    if shown:
        count, time = shown[len(shown) // 2], settings["merge_times"][-1]
        yield draw_section(
            "Where the steps are",
            f"The {count} windows of the best student, from noise (left) to data (right), each "
            f"with its number of teacher steps; s = {time:g}. At the bottom: uniform windows. "
            "Where these are as good, those drawn are one choice of many.",
            lambda: _window_figure(record, count, time),
        )
    for time in settings["merge_times"]:
        yield draw_section(
            f"Distance to the data, s = {time:g}",
            "W2 to the data of the student planned for it, as a multiple of the teacher's own.",
            lambda time=time: _data_figure(record, time),  # type: ignore[misc]
            _error_table(record, "data", time),
        )


def _place_sentence(rows: Sequence[Row]) -> str:
    last = rows[-1]
    edges = [int(edge) for edge in last["boundaries"].split()]
    noisy = sum(edge >= edges[0] / 2 for edge in edges[1:-1])
    uniform = _best_uniform(last) / last["best"]
    return (
        f"{_called(last['source'])}, K = {last['student_steps']}: {noisy} of {len(edges) - 2} "
        f"handovers lie in the noisier half, {last['kept_steps']} of the student's steps are "
        f"teacher steps; uniform windows err {_more(uniform)}."
    )


def _moved_sentence(rows: Sequence[Row]) -> str:
    """What the boundaries are worth without the planner's merges."""
    several = _several(rows)
    worst = max((row["moved"] / row["best"] - 1 for row in several), default=0.0)
    return (
        "The boundaries carry the gain: a named strategy on the planner's windows errs at most "
        f"{percent(worst)} more than the planner's own plan."
    )


def _data_sentence(record: Record, source: str) -> str:
    rows = [
        row
        for row in record["tables"]["students"]
        if row["objective"] == "data" and row["source"] == source
    ]
    near = min(rows, key=lambda row: row["best"])
    ratio = near["best"] / near["teacher_to_data"]
    told = f"{times(1 / ratio)} nearer to" if ratio < 1 - _EQUAL else "no nearer to"
    return (
        f"{_called(source)}: the best student (K = {near['student_steps']}, s = "
        f"{near['merge_time']:g}) is {told} the data than its teacher, {number(near['best'])} "
        f"against {number(near['teacher_to_data'])}."
    )


@figure_style()
def _error_figure(record: Record, time: float) -> Figure:
    figure, axes = new_figure(height=3.4)
    rows = _rows(record, "teacher", time)
    several = _several(rows)
    hurt = [row for row in several if _best_uniform(row) > _first(rows, row)["best"]]
    set_title(
        figure,
        f"On uniform windows {len(hurt)} of {len(several)} students err more than one step does",
    )
    shown = [1.0]
    for source, (colour, marker) in _styled(record):
        own = _of(rows, source)
        counts, one = [row["student_steps"] for row in own], own[0]["best"]
        planned = [row["best"] / one for row in own]
        uniform = [_best_uniform(row) / one for row in own]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        axes.plot(counts, planned, label=_called(source), **style)
        axes.plot(counts, uniform, linestyle=(0, (3, 1.5)), linewidth=0.9, **style)
        shown += planned + uniform
    _finish_counts(axes, record)
    log_axis(axes.yaxis, min(shown) / 2, max(shown) * 2)
    axes.set_ylabel("W2 to the teacher, one step = 1")
    return figure


@figure_style()
def _data_figure(record: Record, time: float) -> Figure:
    figure, axes = new_figure(height=3.2)
    rows = _rows(record, "data", time)
    nearer = [row for row in rows if row["best"] < row["teacher_to_data"] * (1 - _EQUAL)]
    set_title(figure, f"{len(nearer)} of {len(rows)} students are nearer to the data than teachers")
    shown = [1.0]
    for source, (colour, marker) in _styled(record):
        own = _of(rows, source)
        counts = [row["student_steps"] for row in own]
        ratios = [row["best"] / row["teacher_to_data"] for row in own]
        axes.plot(counts, ratios, color=colour, marker=marker, markersize=4, label=_called(source))
        shown += ratios
    axes.axhline(1.0, color=INK, linewidth=0.7)
    _finish_counts(axes, record)
    log_axis(axes.yaxis, min(shown) / 1.5, max(shown) * 1.5)
    axes.set_ylabel("W2 to the data, teacher = 1")
    return figure


def _finish_counts(axes: Any, record: Record) -> None:
    counts = record["settings"]["student_steps"]
    log_axis(axes.xaxis, counts[0] / 1.15, counts[-1] * 1.15)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("steps of the student, K")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)


@figure_style()
def _window_figure(record: Record, count: int, time: float) -> Figure:
    steps = record["settings"]["num_steps"]
    rows = [r for r in _rows(record, "teacher", time) if r["student_steps"] == count]
    windows = {
        _called(row["source"]): [int(edge) for edge in row["boundaries"].split()] for row in rows
    }
    windows["uniform"] = [steps - round(steps * k / count) for k in range(count + 1)]
    figure, axes = new_figure(height=1.0 + 0.3 * len(windows))
    alike = [_called(r["source"]) for r in rows if _best_uniform(r) <= r["best"] * (1 + _EQUAL)]
    set_title(
        figure,
        f"Uniform windows are as good as any only for {', '.join(alike)}"
        if alike
        else f"No best student of {count} steps has uniform windows",
    )
    for line, edges in enumerate(reversed(list(windows.values()))):
        for place, (start, stop) in enumerate(pairwise(edges)):
            colour = (BLUE, "#a6cee3")[place % 2]
            axes.barh(
                line, stop - start, 0.7, start, color=colour, edgecolor="white", linewidth=0.8
            )
            if start - stop > steps / 16:
                label = str(start - stop)
                tone = ("white", INK)[place % 2]
                axes.text((start + stop) / 2, line, label, ha="center", va="center", color=tone)
    axes.set_xlim(steps, 0)
    axes.set_yticks(range(len(windows)), list(reversed(windows)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("teacher step t, noise to data")
    return figure


def _error_table(record: Record, objective: str, time: float) -> Table:
    return make_table(
        f"W2 to the {objective} at s = {time:g}",
        ("data", "K", "best", "bound", "uniform", "moved", "boundaries"),
        [
            (
                _called(row["source"]),
                str(row["student_steps"]),
                number(row["best"]),
                number(row["lower_bound"]),
                number(_best_uniform(row)),
                number(row["moved"]),
                row["boundaries"],
            )
            for row in _rows(record, objective, time)
        ],
        "Uniform: the best named strategy on uniform windows; moved: on the planner's.",
    )


def _rows(record: Record, objective: str, time: float) -> list[Row]:
    return [
        row
        for row in record["tables"]["students"]
        if row["objective"] == objective and row["merge_time"] == time
    ]


def _of(rows: Sequence[Row], source: str) -> list[Row]:
    return [row for row in rows if row["source"] == source]


def _first(rows: Sequence[Row], row: Row) -> Row:
    """The row of the fewest steps for the same data."""
    return _of(rows, row["source"])[0]


def _several(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["student_steps"] > 1]


def _gain(rows: Sequence[Row]) -> float:
    return float(rows[0]["best"] / rows[-1]["best"])


def _best_uniform(row: Row) -> float:
    return float(min(row[name] for name in _UNIFORM))


def _more(ratio: float) -> str:
    return f"{times(ratio)} as much" if ratio >= 2 else f"{percent(ratio - 1)} more"


def _open_count(record: Record) -> int:
    rows = record["tables"]["students"]
    return sum(row["lower_bound"] < row["best"] * (1 - 1e-6) for row in rows)


def _sources(record: Record) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in record["tables"]["students"]))


def _styled(record: Record) -> Iterator[tuple[str, tuple[str, str]]]:
    sources = _sources(record)
    return zip(sources, _STYLES * len(sources), strict=False)


def _called(source: str) -> str:
    prefix = "eigenvalues:"
    if source.startswith(prefix):
        return f"λ = {source.removeprefix(prefix)}"
    return short_name(source)
