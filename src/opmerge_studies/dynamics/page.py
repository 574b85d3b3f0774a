"""The page of the study `dynamics`: the closed form against students that are really trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page import charts
from opmerge.page.charts import DASHED, DOTTED, Axis, Level, Series, curves, intervals, series_by
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import percent
from opmerge.page.study import Page, frame, table
from opmerge.plotting import BLUE, GREY, INK
from opmerge_studies.shared.strategies import CANONICAL

if TYPE_CHECKING:
    import pandas as pd

_PROMISED = 1e-10  # relative difference that counts as agreement of programs without chance
_CHANCE = 0.01  # with which the largest of all deviations may lie beyond its bound by chance
_NOTICED = 0.1  # difference of an error from which flow is not descent
_GOOD_FIT = 0.95  # R² from which a time describes an optimiser
_WAY = {"way": "optimiser:s", "η": "learning_rate:g", "B": "batch_size:g", "N": "num_iterations:g"}
_PLAN = {"T": "num_steps:g", "plan": "strategy:s", "λ": "eigenvalue:g", "error": "error"}
_FIT = {"s": "fitted_time:.3f", "R²": "r_squared:.3f", "n to the power": "exponent:.2f"}
_MISSED = {"overshoot": "sign_changes:%", "median": "median_factor", "worst": "worst_factor"}
_DENSE = {"batch": "batch_size:g", "measured": "measured:.4f", "theory": "theory:.4f"}
_DENSE |= {"one weight each": "diagonal:.4f", "deviation, s.e.": "deviation:.2f"}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    ends, merges, fits, steps, dense = (
        frame(record, name) for name in ("ends", "merges", "fits", "step_sizes", "dense")
    )
    dense = dense.reindex(columns=["batch_size", "measured", "theory", "diagonal", "deviation"])
    exact, exact_merges = (
        rows[rows.optimiser.isin(["flow", "descent"])] for rows in (ends, merges)
    )
    sgd = ends[ends.optimiser == "sgd"]
    sgd = sgd.assign(added=sgd.closed_form_sgd / sgd.closed_form - 1)
    parts = merges[merges.optimiser == "sgd"].deviation
    by_rate = steps.groupby("learning_rate").difference.max()
    fits = fits.assign(given=fits.learning_rate * fits.num_iterations)
    controls = fits[fits.optimiser.isin(["descent", "sgd"])]
    adam = fits[(fits.optimiser == "adam") & (fits.merges > 0)]
    values = {
        "worst": exact.groupby("optimiser").difference.max(),
        "merges": exact_merges.difference,
        "sgd": sgd,
        "parts": parts,
        "deviations": np.abs([*parts, *sgd.deviation]),
        "added": sgd.groupby("batch_size").added.max(),
        "smallest": dense.nsmallest(1, "batch_size"),
        "dense": dense.deviation.abs(),
        "by_rate": by_rate,
        "controls": list(controls.groupby(["optimiser", "given"])),
        "adam": adam,
        "best": adam.nlargest(1, "r_squared"),
    }
    claims = {
        "ends-at-closed-form": count(exact.difference < _PROMISED),
        "merges-at-closed-form": count(exact_merges.difference < _PROMISED),
        "sgd-by-chance": count(_by_chance(sgd.deviation) + _by_chance(parts)),
        "matrices-as-derived": count(_by_chance(dense.deviation)),
        "matrices-feel-more-noise": count(dense.theory > dense.diagonal),
        "flow-as-descent": count(by_rate <= _NOTICED),
        "descent-has-a-time": count(controls.r_squared >= _GOOD_FIT),
        "adam-has-no-time": count(adam.r_squared < _GOOD_FIT),
    }

    def sections() -> Iterator[Section]:
        yield _exact_section(exact)
        yield _chance_section(sgd, [*parts, *sgd.deviation])
        if len(dense) > 1:
            yield _dense_section(dense)
        yield _step_section(steps, by_rate)
        yield _adam_section(merges, fits, adam.exponent)

    return Page(values, claims, sections())


def _by_chance(deviations: pd.Series[float]) -> list[bool]:
    """Which lie inside what the largest of so many exceeds by chance in 1 of 100 cases."""
    bound = NormalDist().inv_cdf(1 - 0.5 * _CHANCE / max(len(deviations), 1))
    return [abs(deviation) < bound for deviation in deviations]


def _exact_section(rows: pd.DataFrame) -> Section:
    keys = ["optimiser", "strategy", "num_steps", "num_iterations"]
    worst = rows.groupby(keys, sort=False).difference.max().clip(lower=1e-17).reset_index()
    worst = worst.assign(line=worst.strategy.map(CANONICAL.index))
    return draw_section(
        "Without chance",
        "Largest relative difference over λ between the trained student and the closed form, for "
        "every plan, T and time; dotted: 1e-10.",
        intervals(
            series_by(worst, "optimiser", "difference", "line", alpha=0.8),
            CANONICAL,
            Axis("relative difference of operators", (1e-17, 1e-9)),
            f"Every plan ends within {worst.difference.max():.0e} of the closed form",
            levels=[Level(x=_PROMISED, look={"color": INK, "linestyle": DOTTED})],
        ),
        table(
            "Whole students, trained without chance",
            rows,
            {**_WAY, **_PLAN, "closed form": "closed_form", "difference": "difference"},
        ),
    )


def _chance_section(rows: pd.DataFrame, deviations: Sequence[float]) -> Section:
    counts, edges = np.histogram(np.clip(deviations, -5.2, 5.2), np.arange(-5.25, 5.26, 0.5))
    points = np.linspace(-5.25, 5.25, 201)
    chance = 0.5 * len(deviations) * np.array([NormalDist().pdf(point) for point in points])
    near = percent(float(np.mean(np.abs(deviations) < 2)))
    steps = {"color": BLUE, "drawstyle": "steps-mid"}
    return draw_section(
        "SGD",
        "Mean of the runs minus the closed form, in standard errors that follow from batch size, "
        "learning rate and iterations; dashed: what chance alone gives.",
        curves(
            [
                Series("measured", edges[:-1] + 0.25, counts, steps),
                Series("chance", points, chance, {"color": INK, "linestyle": DASHED}),
            ],
            Axis("deviation of the mean over runs, standard errors", log=False),
            Axis("merges and students", (0, 1.1 * max(*counts, *chance)), log=False),
            f"{near} of the means of SGD lie within 2 standard errors of the closed form",
        ),
        table(
            "Whole students, trained by SGD",
            rows,
            {**_WAY, **_PLAN, "closed form": "closed_form_sgd", "deviation, s.e.": "deviation:.2f"},
        ),
    )


def _dense_section(rows: pd.DataFrame) -> Section:
    sizes, first = rows.batch_size, rows.iloc[0]
    limits = (rows.diagonal.min() / 2 - 0.5, 3 * rows.theory.max() - 3)
    dots = {"color": BLUE, "linestyle": "", "marker": "o", "markersize": 4}
    grey = {"color": GREY, "linestyle": DASHED}
    return draw_section(
        "What small batches add",
        "Root mean square error of one merge, T/2 → 0, as a multiple of the closed form's. Lines: "
        "exact second moments; dots: measured on full matrices.",
        curves(
            [
                Series("full matrix", sizes, rows.theory - 1, {"color": BLUE}),
                Series("measured", sizes, rows.measured - 1, dots),
                Series("one weight a coordinate", sizes, rows.diagonal - 1, grey),
            ],
            Axis("batch size B", margin=1.3),
            Axis("error added, closed form = 1", limits),
            f"At batch size {first.batch_size:g} SGD errs {percent(first.measured - 1)} more than "
            "the closed form",
            columns=2,
        ),
        table("Full matrices trained by SGD", rows, _DENSE),
    )


def _step_section(rows: pd.DataFrame, by_rate: pd.Series[float]) -> Section:
    worst = rows.groupby(["strategy", "learning_rate"], sort=False).difference.max().reset_index()
    return draw_section(
        "How small a step must be",
        "Descent for time s = 1 against gradient flow: by how much the error of the whole student "
        "differs, at its worst over λ.",
        curves(
            series_by(worst, "strategy", "learning_rate", "difference", charts.STYLES),
            Axis("learning rate η, in N = 1/η iterations", margin=1.3),
            Axis("relative difference of errors", margin=2),
            f"Steps of η = {by_rate.index[-1]:g} put the error {percent(by_rate.iloc[-1])} away "
            "from that of flow",
            columns=2,
        ),
        table(
            "Descent for s = 1 against flow",
            rows,
            {"η": "learning_rate:g", **_PLAN, "flow": "flow", "difference": "difference"},
        ),
    )


def _adam_section(merges: pd.DataFrame, fits: pd.DataFrame, powers: pd.Series[float]) -> Section:
    rates = fits[fits.optimiser == "adam"].learning_rate
    rows = merges[merges.batch_size.isna() & (merges.num_iterations == fits.num_iterations.min())]
    ends_of_range = (rows.optimiser == "adam") & rows.learning_rate.isin([rates.min(), rates.max()])
    rows = rows[(rows.optimiser == "descent") | ends_of_range]
    span = f"{powers.min():.1f} to {powers.max():.1f}" if len(powers) else "–"
    rows = rows.assign(
        way=rows.optimiser + rows.learning_rate.map(", η = {:g}".format),
        learned=-np.log(rows.retention.abs()).clip(upper=-0.01),
    )
    return draw_section(
        "Adam has no time",
        "One dot a merge and λ. The closed form is the line -ln ρ = 2 s n; n is the variance of "
        "the student's input.",
        curves(
            series_by(rows, "way", "variance", "learned", linestyle="", markersize=3.5, alpha=0.6),
            Axis("variance n of the student's input", margin=1.3),
            Axis("learned in a merge, -ln |ρ|", (0.03, 50.0)),
            f"Merges by descent learn in proportion to n, by Adam as n to the power {span}",
            columns=2,
        ),
        table(
            "One time s for each way of training",
            fits,
            {**_WAY, **_FIT, **_MISSED},
            "Median, worst: the factor by which the closed form with this s misses the error of a "
            "whole student. Dashes: every merge ended at rounding.",
        ),
    )
