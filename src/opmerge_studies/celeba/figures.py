"""Figures of the study `celeba`: spectra of latents, and errors of plans there and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.plotting import BLUE, GREEN, INK, ORANGE, figure_style, log_axis, new_figure, set_title
from opmerge_studies.celeba.numbers import (
    PAPERS_RULE,
    PLANNED,
    encoder_label,
    largest_time,
    same,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latent_figure", "pixel_figure", "spectrum_figure"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (INK, "D"))
_SMALLEST = 1e-4
_PLANS = (PLANNED, "boot", "vanilla", "temporal:8", "uniform:4", "progressive", "consistency")
_LOW, _HIGH = 0.8, 1.3  # margins of an axis of ratios
_OFF = 10.0  # times the certified plan: left to the table


@figure_style()
def spectrum_figure(record: Record, source: str) -> Figure:
    """Eigenvalues of the covariance and variances of latents, of the first seed."""
    figure, axes = new_figure(height=3.2)
    rows = _first_seed(record, "eigenvalues", source)
    largest = {form: max(r["eigenvalue"] for r in same(rows, form=form)) for form in _DASHES}
    set_title(
        figure,
        f"The largest variance of a latent is {largest['diagonal']:.3g}, the largest eigenvalue "
        f"{largest['full']:.3g}",
    )
    longest = 1
    for encoder, (colour, _) in _styled(record, source):
        for form, dash in _DASHES.items():
            own = same(rows, encoder=encoder, form=form)
            ranks = [row["rank"] for row in own]
            values = np.maximum([row["eigenvalue"] for row in own], _SMALLEST / 10)
            label = encoder_label(encoder) if form == "full" else None
            axes.plot(ranks, values, color=colour, linestyle=dash, label=label)
            if form == "full":
                low, high = ([max(r[end], _SMALLEST / 10) for r in own] for end in _ENDS)
                axes.fill_between(ranks, low, high, color=colour, alpha=0.2, linewidth=0)
            longest = max(longest, len(own))
    axes.axhline(1.0, color=INK, linewidth=0.7)
    log_axis(axes.xaxis, 1, longest * 1.1)
    log_axis(axes.yaxis, _SMALLEST, 2 * max(largest.values()))
    axes.set_xlabel("direction or latent, by size")
    axes.set_ylabel("variance λ")
    _legend(axes)
    return figure


_DASHES: dict[str, Any] = {"full": "-", "diagonal": (0, (3, 1.5))}


@figure_style()
def latent_figure(record: Record, source: str) -> Figure:
    """W2 of each plan, the certified one's 1, by the diagonal and by the full covariance."""
    time = largest_time(record)
    rows = same(_first_seed(record, "plans", source), merge_rule=PAPERS_RULE, merge_time=time)
    first = {
        form: [
            min(
                (r for r in same(rows, encoder=encoder, form=form) if r["plan"] != PLANNED), key=_w2
            )
            for encoder, _ in _styled(record, source)
        ]
        for form in _DASHES
    }
    told = [_names(first[form]) for form in ("diagonal", "full")]
    title = f"Least errs, of the named: {told[0]} by the diagonal, {told[1]} by the full covariance"
    if set(told[0].split(" or ")) == set(told[1].split(" or ")):
        title = f"By either form {told[0]} errs least of the named"
    return _dots(record, source, rows, "w2", title, "W2 in latents, certified plan = 1")


@figure_style()
def pixel_figure(record: Record, source: str) -> Figure:
    """Paired error of each plan in decoded pixels, the certified one's 1."""
    time = largest_time(record)
    rows = [
        {**row, "form": "full", "low": row["paired_low"], "high": row["paired_high"]}
        for row in same(_first_seed(record, "pixels", source), merge_time=time)
    ]
    first = [
        min((r for r in same(rows, encoder=e) if r["plan"] != PLANNED), key=_paired)
        for e, _ in _styled(record, source)
    ]
    title = f"Decoded, {_names(first)} errs least of the named"
    return _dots(record, source, rows, "paired_rms", title, "error in pixels, certified plan = 1")


def _dots(
    record: Record, source: str, rows: Sequence[Row], key: str, title: str, label: str
) -> Figure:
    """A dot a plan and encoder, filled for the full covariance, hollow for the diagonal."""
    figure, axes = new_figure(height=3.0)
    set_title(figure, title)
    highest = 1.0
    encoders = _styled(record, source)
    plans = _shown_plans(rows, key)
    for number, (encoder, (colour, marker)) in enumerate(encoders):
        shift = 0.22 * (number - (len(encoders) - 1) / 2)
        for form, fill in (("diagonal", "none"), ("full", colour)):
            own = {row["plan"]: row for row in same(rows, encoder=encoder, form=form)}
            if not own:
                continue
            unit = own[PLANNED][key]
            values = [own[plan][key] / unit for plan in plans]
            ends = [[abs(own[p][key] - own[p][end]) / unit for p in plans] for end in _ENDS]
            axes.errorbar(
                values,
                [place + shift for place in range(len(plans))],
                xerr=ends,
                color=colour,
                markerfacecolor=fill,
                marker=marker,
                markersize=4.5,
                linestyle="none",
                elinewidth=0.8,
                label=encoder_label(encoder) if form == "full" else None,
            )
            highest = max(highest, *values)
    axes.set_yticks(range(len(plans)), plans)
    axes.invert_yaxis()
    axes.grid(axis="x")
    log_axis(axes.xaxis, _LOW, highest * _HIGH)
    axes.set_xlabel(label)
    _legend(axes)
    return figure


_ENDS = ("low", "high")


def _shown_plans(rows: Sequence[Row], key: str) -> list[str]:
    """The plans that do not err ten times as much as the certified one everywhere."""
    unit = {(r["encoder"], r["form"]): r[key] for r in same(rows, plan=PLANNED)}
    least = {
        plan: min(r[key] / unit[r["encoder"], r["form"]] for r in same(rows, plan=plan))
        for plan in _PLANS
    }
    return [plan for plan in _PLANS if least[plan] < _OFF]


def _names(rows: Sequence[Row]) -> str:
    return " or ".join(dict.fromkeys(row["plan"] for row in rows))


def _w2(row: Row) -> float:
    return float(row["w2"])


def _paired(row: Row) -> float:
    return float(row["paired_rms"])


def _legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)


def _first_seed(record: Record, table: str, source: str) -> list[Row]:
    seed = record["settings"]["seeds"][0]
    return same(record["tables"][table], source=source, seed=seed)


def _styled(record: Record, source: str) -> list[tuple[str, tuple[str, str]]]:
    encoders = dict.fromkeys(
        row["encoder"] for row in same(record["tables"]["encoders"], source=source)
    )
    return list(zip(encoders, _STYLES * len(encoders), strict=False))
