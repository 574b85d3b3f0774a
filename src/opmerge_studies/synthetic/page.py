"""The page of the study `synthetic`: named strategies and interval DP against the best plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent, times
from opmerge.page.strategies import STYLES
from opmerge.page.study import Answer
from opmerge.plotting import GREY, figure_style, log_axis, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_PROVED = 1e-6  # relative gap below which a plan counts as proved best
_TOP = 1e4  # ratio at which the figures end
_RULES = ("operator-copy", "denoiser-copy")


def answer(record: Record) -> Answer:
    """How near the strategies come, and whether the paper's DP finds the optimum."""
    missed = _missed(record["tables"]["scan"])
    return Answer(
        finding=f"{_sides(record)} {_interval_sentence(record)}",
        evidence=(
            *(_strategy_sentence(record, name) for name in _names(record)),
            *(_band_sentence(record, steps) for steps in _steps(record)),
            _dominance_sentence(record),
            _denoiser_sentence(record),
        ),
        limits=(
            "One eigenvalue, plain cosine schedule, gradient flow for the same time in each merge.",
            "Interval DP is rebuilt from a summary of Algorithm 1, whose text was not at hand: for "
            "every interval it keeps the operator closest to the interval's composite.",
            f"Of the {len(missed)} points of the scan where interval DP is not best, "
            f"{sum(_is_proved(row) for row in missed)} have a plan that is proved best; at the "
            "others a better plan is known and the best may be better still.",
        ),
        overturned_by=(
            "A plan that errs less than BOOT at some λ ≤ 1 or less than vanilla at some λ ≥ λ*(T);",
            "the authors' own program finding the better plans in the band.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The largest ratios."""
    scan = record["tables"]["scan"]
    worst = max(_known(scan, "interval_ratio"), key=lambda row: row["interval_ratio"])
    return [
        *(
            (
                f"W2 of {name} over the best, worst of λ and T",
                times(max(row["ratio_to_best"] for row in _errors(record, name))),
            )
            for name in ("boot", "vanilla")
        ),
        ("λ and T of the scan where interval DP is not best", _share(_missed(scan), scan)),
        (
            f"its largest loss, λ = {worst['eigenvalue']:.4g}, T = {worst['num_steps']}",
            times(worst["interval_ratio"]),
        ),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    for rule in _RULES:
        steps = _steps(record, rule)
        if steps:
            yield draw_section(
                f"Strategies under {rule.replace('-', ' ')}",
                f"W2 to the teacher as a multiple of the best plan's, T = {steps[-1]}. Points "
                f"above {_TOP:,.0f} lie on the upper edge.",
                lambda rule=rule, last=steps[-1]: _strategy_figure(record, rule, last),  # type: ignore[misc]
                _error_table(record, rule),
            )
    yield draw_section(
        "The paper's planner",
        "W2 of the plan of interval DP (Algorithm 1) as a multiple of the best plan that is known, "
        "under operator copy. At 1 it finds the best plan.",
        lambda: _interval_figure(record),
        _scan_table(record),
    )
    if len(_steps(record)) > 1:
        lowest = min(row["eigenvalue"] for row in _errors(record, "boot"))
        yield draw_section(
            "More teacher steps",
            f"W2 to the teacher at λ = {lowest:g}, under operator copy.",
            lambda: _steps_figure(record, lowest),
        )


def _sides(record: Record) -> str:
    """Which strategy is best below and from λ = 1, over the paper's points."""
    parts = []
    for name, side, low, high in (("BOOT", "λ ≤ 1", 0.0, 1.0), ("vanilla", "λ ≥ 2", 2.0, inf)):
        rows = [row for row in _errors(record, name.lower()) if low <= row["eigenvalue"] <= high]
        if not rows:
            continue
        worst = max(row["ratio_to_best"] for row in rows) - 1
        if worst <= _EQUAL:
            parts.append(f"{name} is best at all {len(rows)} points with {side}")
        else:
            parts.append(f"{name} errs up to {percent(worst)} more than the best plan at {side}")
    return "; ".join(parts) + "." if parts else ""


def _interval_sentence(record: Record) -> str:
    scan = record["tables"]["scan"]
    missed = _missed(scan)
    if not missed:
        return f"The paper's interval DP finds the best plan at all {len(scan)} points of the scan."
    worst = max(missed, key=lambda row: row["interval_ratio"])
    return (
        f"Between them the paper's interval DP misses the best plan at {len(missed)} of "
        f"{len(scan)} points, by up to {times(worst['interval_ratio'])} in W2 "
        f"(λ = {worst['eigenvalue']:.4g}, T = {worst['num_steps']})."
    )


def _strategy_sentence(record: Record, name: str) -> str:
    rows = _errors(record, name)
    best, worst = (pick(rows, key=lambda row: row["ratio_to_best"]) for pick in (min, max))
    ranks = sorted(row["rank"] for row in rows)
    return (
        f"{name}: W2 from {_excess(best['ratio_to_best'])} to {_excess(worst['ratio_to_best'])} "
        f"(λ = {worst['eigenvalue']:g}, T = {worst['num_steps']}); rank {ranks[0]} to {ranks[-1]} "
        f"of {len(_names(record))}, median {ranks[len(ranks) // 2]}."
    )


def _band_sentence(record: Record, num_steps: int) -> str:
    scan = [row for row in record["tables"]["scan"] if row["num_steps"] == num_steps]
    missed = _missed(scan)
    if not missed:
        return f"T = {num_steps}: interval DP is best at all {len(scan)} points of the scan."
    proved = max((row["interval_ratio"] for row in missed if _is_proved(row)), default=None)
    against = f", by up to {times(proved)} against a proved optimum" if proved else ""
    return (
        f"T = {num_steps}: interval DP misses the best plan at {_share(missed, scan)} points, "
        f"λ = {missed[0]['eigenvalue']:.4g} to {missed[-1]['eigenvalue']:.4g}{against}."
    )


def _dominance_sentence(record: Record) -> str:
    """Claim of the paper: its optimum errs less than vanilla, temporal and uniform."""
    plans = {_place(row): row["interval"] for row in record["tables"]["plans"]}
    rows = record["tables"]["errors"]
    beaten = [row for row in rows if row["w2"] < plans[_place(row)] * (1 - _EQUAL)]
    if not beaten:
        return f"Interval DP errs no more than any strategy in all {len(rows)} comparisons."
    worst = max(beaten, key=lambda row: plans[_place(row)] / row["w2"])
    return (
        f"A named strategy errs less than interval DP in {len(beaten)} of {len(rows)} comparisons, "
        f"{worst['strategy']} by {times(plans[_place(worst)] / worst['w2'])} at λ = "
        f"{worst['eigenvalue']:g}, T = {worst['num_steps']} ({worst['merge_rule']})."
    )


def _denoiser_sentence(record: Record) -> str:
    rows = _errors(record, "boot", "denoiser-copy")
    if not rows:
        return "Denoiser copy was not computed."
    best = sum(row["ratio_to_best"] <= 1 + _EQUAL for row in rows)
    return f"Under denoiser copy BOOT is best at {best} of {len(rows)} points, whatever λ."


@figure_style()
def _strategy_figure(record: Record, rule: str, num_steps: int) -> Figure:
    figure, axes = new_figure(height=3.2)
    names = _names(record)
    rows = {name: _errors(record, name, rule, num_steps) for name in names}
    best = [
        min(names, key=lambda name: rows[name][place]["w2"]) for place in range(len(rows["boot"]))
    ]
    values = [row["eigenvalue"] for row in rows["boot"]]
    set_title(figure, _ranking_title(best, values))
    for name in names:
        ratios = [min(row["ratio_to_best"] or 1.0, _TOP) for row in rows[name]]
        style = {**STYLES.get(name, {"color": GREY}), "markersize": 5}
        axes.plot(range(len(values)), ratios, label=name, clip_on=False, **style)
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    log_axis(axes.yaxis, 0.9, _TOP)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("W2 to the teacher, best plan = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


def _ranking_title(best: Sequence[str], values: Sequence[float]) -> str:
    """Runs of the best strategy over λ, told in a line."""
    if len(set(best)) == 1:
        return f"{_called(best[0])} errs least at every λ"
    changes = [place for place in range(1, len(best)) if best[place] != best[place - 1]]
    if len(changes) == 1:
        place = changes[0]
        return (
            f"{_called(best[0])} errs least up to λ = {values[place - 1]:g}, "
            f"{best[place]} from λ = {values[place]:g}"
        )
    return "Which strategy errs least depends on λ"


@figure_style()
def _interval_figure(record: Record) -> Figure:
    scan = record["tables"]["scan"]
    figure, axes = new_figure(height=3.0)
    missed = _missed(scan)
    set_title(
        figure,
        f"Interval DP misses the best plan at {_share(missed, scan)} points between the phases"
        if missed
        else "Interval DP finds the best plan at every λ",
    )
    styles = list(STYLES.values())
    for style, num_steps in zip(styles, _steps(record), strict=False):
        rows = [r for r in _known(scan, "interval_ratio") if r["num_steps"] == num_steps]
        distances = [row["eigenvalue"] - 1 for row in rows]
        ratios = [row["interval_ratio"] for row in rows]
        axes.plot(distances, ratios, label=f"T = {num_steps}", markersize=3, **style)
    log_axis(axes.xaxis, 0.001, 1.2)
    log_axis(axes.yaxis, 0.9, 1.5 * max(10.0, *(r["interval_ratio"] or 1.0 for r in scan)))
    axes.set_xlabel("data variance, λ - 1")
    axes.set_ylabel("W2 of interval DP, best = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def _steps_figure(record: Record, eigenvalue: float) -> Figure:
    figure, axes = new_figure(height=3.0)
    steps = _steps(record)
    lowest, highest = 1.0, 0.0
    growth = {}
    for name in _names(record):
        errors = [r["w2"] for r in _errors(record, name) if r["eigenvalue"] == eigenvalue]
        style = {**STYLES.get(name, {"color": GREY}), "markersize": 5}
        axes.plot(steps, errors, label=name, **style)
        lowest, highest = min(lowest, *errors), max(highest, *errors)
        growth[name] = errors[-1] / errors[0]
    worst = max(growth, key=lambda name: growth[name])
    set_title(
        figure,
        f"From T = {steps[0]} to {steps[-1]} the error of {worst} grows {times(growth[worst])}; "
        f"BOOT's changes by {percent(abs(growth['boot'] - 1))}",
    )
    log_axis(axes.xaxis, steps[0] / 1.2, steps[-1] * 1.2)
    axes.set_xticks(steps, [str(value) for value in steps])
    log_axis(axes.yaxis, lowest / 3, highest * 3)
    axes.set_xlabel("number of teacher steps T")
    axes.set_ylabel("W2 to the teacher")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


def _error_table(record: Record, rule: str) -> Table:
    names = _names(record)
    plans = [row for row in record["tables"]["plans"] if row["merge_rule"] == rule]
    cells = {(_place(row), row["strategy"]): row for row in record["tables"]["errors"]}
    return make_table(
        "Best plan's W2; each strategy's multiple of it (and rank)",
        ("T", "λ", "best", "bound", *names, "interval DP"),
        [
            (
                str(plan["num_steps"]),
                f"{plan['eigenvalue']:g}",
                number(plan["best"]),
                number(plan["lower_bound"]),
                *(
                    f"{_ratio(cells[_place(plan), name]['ratio_to_best'])} "
                    f"({cells[_place(plan), name]['rank']})"
                    for name in names
                ),
                _ratio(plan["interval_ratio"]),
            )
            for plan in plans
        ],
    )


def _scan_table(record: Record) -> Table:
    return make_table(
        "Points where interval DP is not best",
        ("T", "λ", "best", "bound", "interval DP", "ratio", "best plan"),
        [
            (
                str(row["num_steps"]),
                f"{row['eigenvalue']:.6g}",
                *(number(row[key]) for key in ("best", "lower_bound", "interval")),
                _ratio(row["interval_ratio"]),
                f"{row['merges']} merges, {row['shape']}",
            )
            for row in _missed(record["tables"]["scan"])
        ],
    )


def _errors(
    record: Record, name: str, rule: str = "operator-copy", num_steps: int | None = None
) -> list[Row]:
    return [
        row
        for row in record["tables"]["errors"]
        if row["strategy"] == name
        and row["merge_rule"] == rule
        and num_steps in (None, row["num_steps"])
        and row["ratio_to_best"] is not None
    ]


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys(row["strategy"] for row in record["tables"]["errors"]))


def _steps(record: Record, rule: str = "operator-copy") -> list[int]:
    rows = record["tables"]["plans"]
    return sorted({row["num_steps"] for row in rows if row["merge_rule"] == rule})


def _missed(rows: Sequence[Row]) -> list[Row]:
    """Points where interval DP errs more than the best plan that is known."""
    return [r for r in _known(rows, "interval_ratio") if r["interval_ratio"] > 1 + _EQUAL]


def _known(rows: Sequence[Row], key: str) -> list[Row]:
    return [row for row in rows if row[key] is not None]


def _is_proved(row: Row) -> bool:
    return bool(row["lower_bound"] >= row["best"] * (1 - _PROVED))


def _place(row: Row) -> tuple[str, int, float]:
    return row["merge_rule"], row["num_steps"], row["eigenvalue"]


def _share(some: Sequence[Row], of: Sequence[Row]) -> str:
    return f"{len(some)} of {len(of)}"


def _excess(ratio: float) -> str:
    """A ratio to the best, in words."""
    return "that of the best" if ratio <= 1 + _EQUAL else f"{times(ratio)} the best's"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _called(name: str) -> str:
    return "BOOT" if name == "boot" else name.capitalize()
