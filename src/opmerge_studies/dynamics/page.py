"""The page of the study `dynamics`: the closed form against students that are really trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.study import Answer
from opmerge_studies.dynamics.figures import (
    adam_figure,
    dense_figure,
    deviation_figure,
    exact_figure,
    step_figure,
)
from opmerge_studies.dynamics.sentences import (
    deviations,
    evidence,
    finding,
    fits_of,
    largest_difference,
)

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]


def answer(record: Record) -> Answer:
    """Where the closed form holds, and where it stops."""
    return Answer(
        finding=finding(record),
        evidence=tuple(evidence(record)),
        limits=(
            "Linear students on Gaussian data, one weight a coordinate of the eigenbasis (a full "
            "matrix in one merge), plain cosine schedule, operator copy.",
            "SGD has no noise floor here: a student of the teacher's form can reach its target "
            "exactly, and then gradients vanish on every sample. Networks cannot.",
            "Adam with its usual settings and a constant learning rate, begun afresh in each "
            "merge; it depends on the basis, and only the eigenbasis was tried.",
        ),
        overturned_by=(
            "A plan, λ and learning rate below 1/(2 n_t) at which full-batch descent differs from "
            "(1 - 2 η n_t)^N by more than rounding.",
            "For Adam: a time s, the same for all merges, that predicts every merge's retention.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The agreements, and what one time for Adam explains."""
    ends, merges = deviations(record, "ends"), deviations(record, "merges")
    fitted = [row["r_squared"] for row in fits_of(record, "adam") if row["r_squared"] is not None]
    coarse = max(record["tables"]["step_sizes"], key=lambda row: float(row["difference"]))
    return [
        ("ODE solver, largest difference", number(largest_difference(record, "flow"))),
        ("descent, largest difference", number(largest_difference(record, "descent"))),
        (
            f"SGD, largest of {len(ends) + len(merges)} deviations",
            f"{np.abs([*ends, *merges]).max():.2f} standard errors",
        ),
        (
            f"flow instead of descent, η = {coarse['learning_rate']:g}",
            f"error off by {percent(coarse['difference'])}",
        ),
        ("Adam, best R² of one time s", f"{max(fitted):.2f}" if fitted else "–"),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    yield draw_section(
        "Without chance",
        "Largest relative difference over λ between the trained student and the closed form, for "
        "every plan, T and time; dotted: 1e-10.",
        lambda: exact_figure(record),
        _ends_table(record, ("flow", "descent"), "Whole students, trained without chance"),
    )
    yield draw_section(
        "SGD",
        "Mean of the runs minus the closed form, in standard errors that follow from batch size, "
        "learning rate and iterations; line: what chance alone gives.",
        lambda: deviation_figure(record),
        _ends_table(record, ("sgd",), "Whole students, trained by SGD"),
    )
    if len(record["tables"]["dense"]) > 1:
        yield draw_section(
            "What small batches add",
            "Root mean square error of one merge, T/2 → 0, as a multiple of the closed form's. "
            "Lines: exact second moments; dots: measured on full matrices.",
            lambda: dense_figure(record),
            make_table(
                "Full matrices trained by SGD",
                ("batch", "measured", "theory", "one weight each", "deviation, s.e."),
                [
                    (
                        str(row["batch_size"]),
                        *(f"{row[key]:.4f}" for key in ("measured", "theory", "diagonal")),
                        f"{row['deviation']:.2f}",
                    )
                    for row in record["tables"]["dense"]
                ],
            ),
        )
    yield draw_section(
        "How small a step must be",
        "Descent for time s = 1 against gradient flow: by how much the error of the whole student "
        "differs, at its worst over λ.",
        lambda: step_figure(record),
        _step_table(record),
    )
    yield draw_section(
        "Adam has no time",
        "One dot a merge and λ. The closed form is the line -ln ρ = 2 s n; n is the variance of "
        "the student's input.",
        lambda: adam_figure(record),
        _fit_table(record),
    )


def _ends_table(record: Record, optimisers: Sequence[str], caption: str) -> Table:
    rows = [row for row in record["tables"]["ends"] if row["optimiser"] in optimisers]
    by_chance = rows[0]["deviation"] is not None
    last = "deviation, s.e." if by_chance else "difference"
    return make_table(
        caption,
        ("way", "B", "N", "T", "plan", "λ", "error", "closed form", last),
        [
            (
                row["optimiser"],
                str(row["batch_size"] or "–"),
                str(row["num_iterations"]),
                str(row["num_steps"]),
                row["strategy"],
                f"{row['eigenvalue']:g}",
                number(row["error"]),
                number(row["closed_form_sgd" if by_chance else "closed_form"]),
                f"{row['deviation']:.2f}" if by_chance else number(row["difference"]),
            )
            for row in rows
        ],
    )


def _step_table(record: Record) -> Table:
    return make_table(
        "Descent for s = 1 against flow",
        ("η", "T", "plan", "λ", "error", "flow", "difference"),
        [
            (
                f"{row['learning_rate']:g}",
                str(row["num_steps"]),
                row["strategy"],
                f"{row['eigenvalue']:g}",
                *(number(row[key]) for key in ("error", "flow", "difference")),
            )
            for row in record["tables"]["step_sizes"]
        ],
    )


def _fit_table(record: Record) -> Table:
    return make_table(
        "One time s for each way of training",
        ("way", "η", "B", "N", "s", "R²", "n to the power", "overshoot", "median", "worst"),
        [
            (
                row["optimiser"],
                f"{row['learning_rate']:g}",
                str(row["batch_size"] or "–"),
                str(row["num_iterations"]),
                *(
                    "–" if row[key] is None else f"{row[key]:.{digits}f}"
                    for key, digits in (("fitted_time", 3), ("r_squared", 3), ("exponent", 2))
                ),
                "–" if row["sign_changes"] is None else percent(row["sign_changes"]),
                *(
                    "–" if row[key] is None else number(row[key])
                    for key in ("median_factor", "worst_factor")
                ),
            )
            for row in record["tables"]["fits"]
        ],
        note="Median, worst: the factor by which the closed form with this s misses the error of a "
        "whole student. Dashes: every merge ended at rounding.",
    )
