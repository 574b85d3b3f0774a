"""The page of the study `dynamics`: the closed form against students that are really trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import (
    DASHED,
    DOTTED,
    STYLES,
    Axis,
    Level,
    Series,
    chart,
    intervals,
    series_by,
)
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import percent
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, GREY, INK
from opmerge_studies.shared.strategies import CANONICAL

_PROMISED = 1e-10  # relative difference that counts as agreement of programs without chance
_CHANCE = 0.01  # with which the largest of all deviations may lie beyond its bound by chance
_NOTICED = 0.1  # difference of an error from which flow is not descent
_GOOD_FIT = 0.95  # R² from which a time describes an optimiser
_WAY = ("way=optimiser:s", "η=learning_rate:g", "B=batch_size:g", "N=num_iterations:g")
_PLAN = ("T=num_steps:g", "plan=strategy:s", "λ=eigenvalue:g", "error")


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

    rows = {"exact": exact, "sgd": sgd, "dense": dense, "steps": steps, "merges": merges}
    return Page(values, claims, _sections({**rows, "fits": fits}))


def _by_chance(deviations: pd.Series[float]) -> list[bool]:
    """Which lie inside what the largest of so many exceeds by chance in 1 of 100 cases."""
    bound = NormalDist().inv_cdf(1 - 0.5 * _CHANCE / max(len(deviations), 1))
    return [abs(deviation) < bound for deviation in deviations]


def _sections(rows: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    exact, sgd, dense = (rows[key] for key in ("exact", "sgd", "dense"))
    steps, merges, fits = (rows[key] for key in ("steps", "merges", "fits"))
    keys = ["optimiser", "strategy", "num_steps", "num_iterations"]
    worst = exact.groupby(keys, sort=False).difference.max().clip(lower=1e-17).reset_index()
    worst = worst.assign(line=worst.strategy.map(CANONICAL.index))
    yield draw_section(
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
            exact,
            heads(*_WAY, *_PLAN, "closed form=closed_form", "difference"),
        ),
    )
    deviations = [*merges[merges.optimiser == "sgd"].deviation, *sgd.deviation]
    counts, edges = np.histogram(np.clip(deviations, -5.2, 5.2), np.arange(-5.25, 5.26, 0.5))
    points = np.linspace(-5.25, 5.25, 201)
    chance = 0.5 * len(deviations) * np.array([NormalDist().pdf(point) for point in points])
    measured = {"color": BLUE, "drawstyle": "steps-mid"}
    yield chart(
        "SGD",
        "Mean of the runs minus the closed form, in standard errors that follow from batch size, "
        "learning rate and iterations; dashed: what chance alone gives.",
        [
            Series("measured", edges[:-1] + 0.25, counts, measured),
            Series("chance", points, chance, {"color": INK, "linestyle": DASHED}),
        ],
        Axis("deviation of the mean over runs, standard errors", log=False),
        Axis("merges and students", (0, 1.1 * max(*counts, *chance)), log=False),
        f"{percent(float(np.mean(np.abs(deviations) < 2)))} of the means of SGD lie within "
        "2 standard errors of the closed form",
        table(
            "Whole students, trained by SGD",
            sgd,
            heads(*_WAY, *_PLAN, "closed form=closed_form_sgd", "deviation, s.e.=deviation:.2f"),
        ),
    )
    if len(dense) > 1:
        sizes, first = dense.batch_size, dense.iloc[0]
        limits = (dense.diagonal.min() / 2 - 0.5, 3 * dense.theory.max() - 3)
        dots = {"color": BLUE, "linestyle": "", "marker": "o", "markersize": 4}
        grey = {"color": GREY, "linestyle": DASHED}
        yield chart(
            "What small batches add",
            "Root mean square error of one merge, T/2 → 0, as a multiple of the closed form's. "
            "Lines: exact second moments; dots: measured on full matrices.",
            [
                Series("full matrix", sizes, dense.theory - 1, {"color": BLUE}),
                Series("measured", sizes, dense.measured - 1, dots),
                Series("one weight a coordinate", sizes, dense.diagonal - 1, grey),
            ],
            Axis("batch size B", margin=1.3),
            Axis("error added, closed form = 1", limits),
            f"At batch size {first.batch_size:g} SGD errs {percent(first.measured - 1)} more than "
            "the closed form",
            table(
                "Full matrices trained by SGD",
                dense,
                heads(
                    *("batch=batch_size:g", "measured:.4f", "theory:.4f"),
                    *("one weight each=diagonal:.4f", "deviation, s.e.=deviation:.2f"),
                ),
            ),
            columns=2,
        )
    worst = steps.groupby(["strategy", "learning_rate"], sort=False).difference.max().reset_index()
    largest = worst.learning_rate.max()
    off = worst[worst.learning_rate == largest].difference.max()
    yield chart(
        "How small a step must be",
        "Descent for time s = 1 against gradient flow: by how much the error of the whole student "
        "differs, at its worst over λ.",
        series_by(worst, "strategy", "learning_rate", "difference", STYLES),
        Axis("learning rate η, in N = 1/η iterations", margin=1.3),
        Axis("relative difference of errors", margin=2),
        f"Steps of η = {largest:g} put the error {percent(off)} away from that of flow",
        table(
            "Descent for s = 1 against flow",
            steps,
            heads("η=learning_rate:g", *_PLAN, "flow", "difference"),
        ),
        columns=2,
    )
    adam = fits[fits.optimiser == "adam"]
    shown = merges[merges.batch_size.isna() & (merges.num_iterations == fits.num_iterations.min())]
    extremes = adam.learning_rate.agg(["min", "max"])
    ends_of_range = (shown.optimiser == "adam") & shown.learning_rate.isin(extremes)
    shown = shown[(shown.optimiser == "descent") | ends_of_range]
    shown = shown.assign(
        way=shown.optimiser + shown.learning_rate.map(", η = {:g}".format),
        learned=-np.log(shown.retention.abs()).clip(upper=-0.01),
    )
    powers = adam[adam.merges > 0].exponent
    span = f"{powers.min():.1f} to {powers.max():.1f}" if len(powers) else "–"
    yield chart(
        "Adam has no time",
        "One dot a merge and λ. The closed form is the line -ln ρ = 2 s n; n is the variance of "
        "the student's input.",
        series_by(shown, "way", "variance", "learned", linestyle="", markersize=3.5, alpha=0.6),
        Axis("variance n of the student's input", margin=1.3),
        Axis("learned in a merge, -ln |ρ|", (0.03, 50.0)),
        f"Merges by descent learn in proportion to n, by Adam as n to the power {span}",
        table(
            "One time s for each way of training",
            fits,
            heads(
                *(*_WAY, "s=fitted_time:.3f", "R²=r_squared:.3f", "n to the power=exponent:.2f"),
                *("overshoot=sign_changes:%", "median=median_factor", "worst=worst_factor"),
            ),
            "Median, worst: the factor by which the closed form with this s misses the error of a "
            "whole student. Dashes: every merge ended at rounding.",
        ),
        columns=2,
    )
