"""The page of the study `spectra`: real data, in the eigenbasis and as the diagonal has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent, short_name
from opmerge.page.study import Answer
from opmerge.plotting import BLUE, GREEN, INK, ORANGE, figure_style, log_axis, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_STRATEGIES = ("vanilla", "progressive", "consistency", "boot", "uniform:4", "temporal:8")
_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (INK, "x"))
_PROVED = 1e-9  # relative gap that is rounding


def answer(record: Record) -> Answer:
    """Which plans are best for real data, and what the diagonal costs."""
    plans = record["tables"]["plans"]
    worst = max(plans, key=_loss)
    return Answer(
        finding=f"{_gain_sentence(record)} {_diagonal_sentence(record, worst)}",
        evidence=(
            *(_share_sentence(row) for row in record["tables"]["sources"]),
            *(_plan_sentence(_of(plans, source)) for source in _sources(record)),
            *(_cost_sentence(_of(plans, source)) for source in _sources(record)),
            f"{sum(_is_proved(row) for row in plans)} of {len(plans)} plans in the eigenbasis are "
            f"proved best; the largest relative gap is "
            f"{max(1 - row['lower_bound'] / row['best'] for row in plans):.0e}.",
            _claim_sentence(plans),
        ),
        limits=(
            "The data are taken to be Gaussian with the covariance of the samples; plain cosine "
            "schedule, gradient flow, operator copy.",
            *(
                f"{row['source']} has {row['samples']} samples for {row['dimensions']} dimensions, "
                "so most of its eigenvalues are 0 in the eigenbasis and not in pixels."
                for row in record["tables"]["sources"]
                if row["samples"] <= row["dimensions"]
            ),
            "The diagonal serves to choose the plan; the student is measured on the full "
            "covariance. A student that is itself diagonal is another matter.",
            f"Named strategies are {', '.join(_STRATEGIES)}; the best plans are hybrids, whose "
            "handover has to be found.",
        ),
        overturned_by=(
            "Data whose pixels, or latent coordinates, are nearly uncorrelated: there the diagonal "
            "is the spectrum;",
            "a plan below the proved bounds.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The gain of the best plan and the loss by the diagonal, by source."""
    plans = record["tables"]["plans"]
    return [
        (f"{source}: {label}", f"{max(value(row) for row in _of(plans, source)):.2f}")
        for label, value in (
            ("best named strategy over best plan", _gain),
            ("plan of the diagonal over best plan", _loss),
        )
        for source in _sources(record)
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    time = record["settings"]["merge_times"][-1]
    yield draw_section(
        "Spectra",
        "Solid: eigenvalues of the covariance; dashed: variances of the pixels. Both add up to the "
        "same total. Zeros are left out.",
        lambda: _spectrum_figure(record),
        _share_table(record),
    )
    yield draw_section(
        "Gain of the best plan",
        f"W2 of the best named strategy (solid) and of the plan of the diagonal (dashed) as a "
        f"multiple of the best plan's, in the eigenbasis, s = {time:g}.",
        lambda: _gain_figure(record, time),
        _plan_table(record),
    )
    yield draw_section(
        "What the diagonal promises",
        f"True W2 of the plan made for the diagonal, as a multiple of what the diagonal predicts "
        f"for it, s = {time:g}.",
        lambda: _promise_figure(record, time),
        _promise_table(record),
    )


def _gain_sentence(record: Record) -> str:
    """The range of the gain, by source."""
    told = []
    for source in _sources(record):
        gains = [_gain(row) for row in _of(record["tables"]["plans"], source)]
        low, high = f"{min(gains):.2f}", f"{max(gains):.2f}"
        told.append(f"{low if low == high else f'{low} to {high}'} times on {source}")
    return f"The best named strategy errs {', '.join(told)} as much as the best plan."


def _diagonal_sentence(record: Record, worst: Row) -> str:
    sources = record["tables"]["sources"]
    blind = [row for row in sources if row["diagonal_share_small"] == 1]
    chosen = {row["diagonal_choice"] for row in record["tables"]["plans"]}
    choice = "BOOT" if chosen == {"boot"} else ", ".join(sorted(chosen))
    return (
        f"The diagonal sees no variance above 1 in {len(blind)} of {len(sources)} sources and "
        f"chooses {choice}; its plan errs up to {_loss(worst):.2f} times as much as the best plan "
        f"({worst['source']}, T = {worst['num_steps']})."
    )


def _share_sentence(row: Row) -> str:
    return (
        f"{row['source']}: λ ≤ 1 for {percent(row['eigenbasis_share_small'])} of the "
        f"eigendirections, with {percent(row['eigenbasis_variance_small'])} of the variance, and "
        f"for {percent(row['diagonal_share_small'])} of the pixels; the largest λ is "
        f"{number(row['eigenbasis_largest'])}, the largest pixel variance "
        f"{number(row['diagonal_largest'])}."
    )


def _plan_sentence(rows: Sequence[Row]) -> str:
    row = rows[-1]
    plan = row["plan"][0].lower() + row["plan"][1:]
    return f"{row['source']}, T = {row['num_steps']}, s = {row['merge_time']:g}: {plan}."


def _cost_sentence(rows: Sequence[Row]) -> str:
    ratios = [row["transferred"] / row["predicted"] for row in rows]
    return (
        f"{rows[0]['source']}: the diagonal's plan errs {min(ratios):.2f} to {max(ratios):.2f} "
        "times what the diagonal predicts."
    )


def _claim_sentence(plans: Sequence[Row]) -> str:
    """THEORY 7.8: hybrids beat the best canonical strategy by 1.5-2.5 times."""
    gains = [_gain(row) for row in plans]
    inside = sum(1.5 <= gain <= 2.5 for gain in gains)
    return (
        f"Gains of 1.5 to 2.5 times over the named strategies appear at {inside} of {len(gains)} "
        f"points; the largest is {max(gains):.2f}."
    )


@figure_style()
def _spectrum_figure(record: Record) -> Figure:
    figure, axes = new_figure(height=3.2)
    above = [row for row in record["tables"]["sources"] if row["eigenbasis_largest"] > 1]
    blind = [row for row in above if row["diagonal_largest"] <= 1]
    set_title(
        figure,
        f"{len(above)} of {len(record['tables']['sources'])} sources have variances above 1; in "
        f"{len(blind)} of these no pixel has",
    )
    highest, longest = 1.0, 1
    for source, (colour, _) in _styled(record):
        for form, dash in (("eigenbasis", "-"), ("diagonal", (0, (3, 1.5)))):
            values = [
                row["eigenvalue"]
                for row in record["tables"]["eigenvalues"]
                if row["source"] == source and row["form"] == form and row["eigenvalue"] > 0
            ]
            label = short_name(source) if form == "eigenbasis" else None
            ranks = range(1, len(values) + 1)
            axes.plot(ranks, values, color=colour, linestyle=dash, label=label)
            highest, longest = max(highest, values[0]), max(longest, len(values))
    axes.axhline(1.0, color=INK, linewidth=0.7)
    log_axis(axes.xaxis, 1, longest * 1.1)
    log_axis(axes.yaxis, 1e-4, 2 * highest)
    axes.set_xlabel("direction or pixel, by size")
    axes.set_ylabel("variance λ")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


@figure_style()
def _gain_figure(record: Record, time: float) -> Figure:
    figure, axes = new_figure(height=3.2)
    rows = [row for row in record["tables"]["plans"] if row["merge_time"] == time]
    set_title(
        figure,
        f"The plan of the diagonal errs up to {max(map(_loss, rows)):.2f} times the best plan, the "
        f"best named strategy up to {max(map(_gain, rows)):.2f} times",
    )
    for source, (colour, marker) in _styled(record):
        own = _of(rows, source)
        steps = [row["num_steps"] for row in own]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        axes.plot(steps, [_gain(row) for row in own], label=short_name(source), **style)
        axes.plot(steps, [_loss(row) for row in own], linestyle=(0, (3, 1.5)), **style)
    _finish_steps(axes, rows)
    axes.set_ylim(0.95, 1.05 * max(map(_loss, rows)))
    axes.set_ylabel("W2 to the teacher, best plan = 1")
    return figure


@figure_style()
def _promise_figure(record: Record, time: float) -> Figure:
    figure, axes = new_figure(height=3.0)
    rows = [row for row in record["tables"]["plans"] if row["merge_time"] == time]
    ratios = [row["transferred"] / row["predicted"] for row in rows]
    set_title(
        figure,
        f"The true error is {min(ratios):.2g} to {max(ratios):.2g} times what the diagonal "
        "predicts",
    )
    for source, (colour, marker) in _styled(record):
        own = _of(rows, source)
        axes.plot(
            [row["num_steps"] for row in own],
            [row["transferred"] / row["predicted"] for row in own],
            color=colour,
            marker=marker,
            markersize=4,
            label=short_name(source),
        )
    axes.axhline(1.0, color=INK, linewidth=0.7)
    _finish_steps(axes, rows)
    axes.set_ylim(0, 1.1 * max(ratios))
    axes.set_ylabel("true W2, predicted = 1")
    return figure


def _finish_steps(axes: Any, rows: Sequence[Row]) -> None:
    steps = sorted({row["num_steps"] for row in rows})
    log_axis(axes.xaxis, steps[0] / 1.2, steps[-1] * 1.2)
    axes.set_xticks(steps, [str(value) for value in steps])
    axes.set_xlabel("number of teacher steps T")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)


def _share_table(record: Record) -> Table:
    return make_table(
        "Variances above and below 1",
        ("data", "samples", "pixels", "largest λ", "λ ≤ 1", "their variance", "largest pixel"),
        [
            (
                row["source"],
                str(row["samples"]),
                str(row["dimensions"]),
                number(row["eigenbasis_largest"]),
                percent(row["eigenbasis_share_small"]),
                percent(row["eigenbasis_variance_small"]),
                number(row["diagonal_largest"]),
            )
            for row in record["tables"]["sources"]
        ],
    )


def _plan_table(record: Record) -> Table:
    return make_table(
        "Best plans and named strategies in the eigenbasis",
        ("data", "T", "s", "best", "bound", "best named", "ratio", "merges", "best plan"),
        [
            (
                row["source"],
                str(row["num_steps"]),
                f"{row['merge_time']:g}",
                number(row["best"]),
                number(row["lower_bound"]),
                _best_named(row),
                f"{_gain(row):.4f}",
                str(row["merges"]),
                row["plan"],
            )
            for row in record["tables"]["plans"]
        ],
    )


def _promise_table(record: Record) -> Table:
    return make_table(
        "The plan of the diagonal",
        ("data", "T", "s", "predicted", "true W2", "best", "true / best", "its plan"),
        [
            (
                row["source"],
                str(row["num_steps"]),
                f"{row['merge_time']:g}",
                *(number(row[key]) for key in ("predicted", "transferred", "best")),
                f"{_loss(row):.4f}",
                row["diagonal_plan"],
            )
            for row in record["tables"]["plans"]
        ],
    )


def _sources(record: Record) -> list[str]:
    return [row["source"] for row in record["tables"]["sources"]]


def _styled(record: Record) -> Iterator[tuple[str, tuple[str, str]]]:
    sources = _sources(record)
    return zip(sources, _STYLES * len(sources), strict=False)


def _of(rows: Sequence[Row], source: str) -> list[Row]:
    return [row for row in rows if row["source"] == source]


def _best_named(row: Row) -> str:
    return min(_STRATEGIES, key=row.__getitem__)


def _gain(row: Row) -> float:
    """Error of the best named strategy over that of the best plan."""
    return float(row[_best_named(row)] / row["best"])


def _loss(row: Row) -> float:
    """Error of the plan made for the diagonal over that of the best plan."""
    return float(row["transferred"] / row["best"])


def _is_proved(row: Row) -> bool:
    return bool(row["lower_bound"] >= row["best"] * (1 - _PROVED))
