"""The page of the study `correlated-noise`: noise that does not commute with the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent, times
from opmerge.page.study import Answer
from opmerge_studies.correlated_noise.figures import (
    crossing_figure,
    digits_figure,
    half_figure,
    law_figure,
    level_figure,
    regret_figure,
)
from opmerge_studies.correlated_noise.numbers import (
    CASES,
    PLANNED,
    SHOWN_CASE,
    THEORIES,
    Record,
    Row,
    batch_sentence,
    boot_rows,
    crossing_sentence,
    digits_sentence,
    draw_sentences,
    half_sentence,
    most_off,
    near_best,
    ratio,
    regrets_tried,
    rotation_sentence,
    winner_sentence,
    worst_comb,
)

__all__ = ["answer", "facts", "sections"]

_FAR = 3.0  # standard errors from which the closed form would be in doubt


def answer(record: Record) -> Answer:
    """What turning the noise does, and what the law of the data does."""
    tables = record["tables"]
    near, pairs = near_best(tables["oracle"]), len(tables["oracle"])
    scalar = [near[name] for name in THEORIES]
    least_off = min(most_off(tables["plane"], name) for name in THEORIES)
    off = _most_standard_errors(tables["plans"])
    law = "leaves the mean student where it is" if off < _FAR else "moves the mean student"
    return Answer(
        finding=(
            "Where the axes of noise and data differ, each theory of one scalar per direction "
            f"somewhere misses W2 by {times(least_off)} or more; its plans are within 1 % of the "
            f"best at {min(scalar)} to {max(scalar)} of {pairs} pairs, combs planned with the "
            f"matrices at {near['comb']}; the law of the data beyond its "
            f"covariance {law} ({off:.2g} standard errors off at most)."
        ),
        evidence=(
            winner_sentence(tables["plane"]),
            worst_comb(tables["oracle"]),
            half_sentence(tables["half_angles"]),
            *draw_sentences(tables["draws"]),
            crossing_sentence(tables["crossings"]),
            rotation_sentence(tables["rotations"]),
            digits_sentence(tables["digits"]),
            batch_sentence(tables["merges"]),
            "In the plane the paired error is up to "
            f"{times(max(ratio(row, 'paired') for row in tables['plane']))} W2: where nothing "
            "commutes, part of a student's error is a rotation that W2 does not see.",
        ),
        limits=(
            "A linear teacher and linear students: for data that are not Gaussian this is the "
            "best linear denoiser, not the best one.",
            "Gradient flow in the coordinates of the data. Training in whitened coordinates has "
            "none of this: there the noise is isotropic and scalar theory is exact.",
            "W2 is that of Gaussian z_T: exact for any data where alpha_T = 0, as here. Elsewhere "
            "it is a lower bound (Gelbrich 1990), and the paired error an upper one.",
            "Combs are planned to first order in what training leaves, and for the paired error. "
            "Where some μ lies between 1 and λ* the best plan need be no comb, commuting or not.",
            "All plans were tried in two dimensions and for few steps only.",
        ),
        overturned_by=(
            "A linear student, trained on fresh samples, whose mean is not the closed form.",
            "Pairs of covariances, with no μ between 1 and λ*, at which planned combs are far from "
            "the best plan where training leaves little.",
            "A plan that beats BOOT by paired error under operator copy where all μ are below 1: "
            f"{_paired_counterexamples(tables['draws'])}.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The largest errors of level, the costs of choices, and what samples do."""
    tables = record["tables"]
    near, pairs = near_best(tables["oracle"]), len(tables["oracle"])
    return [
        *(
            (f"W2 off by up to, {label}", times(most_off(tables["plane"], name)))
            for name, label in THEORIES.items()
        ),
        *(
            (f"within 1 % of the best plan, {label}", f"{near[name]} of {pairs}")
            for name, label in PLANNED.items()
        ),
        ("mean student off by at most", f"{_most_standard_errors(tables['plans']):.2g} s.e."),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    tables = record["tables"]
    yield draw_section(
        "What scalar theory says of the error",
        "W2 of sequential BOOT as scalar theory has it, over its true W2; data variances "
        f"{CASES[SHOWN_CASE]}, noise variances 2 and 0.5. Generalised: the right teacher, but of "
        "the metric of the common frame the diagonal alone. Data basis: the noise's variances "
        "along the data's axes alone. Isotropic: noise of the same total variance.",
        lambda: level_figure(record),
        _level_table(tables["plane"]),
    )
    yield draw_section(
        "What the plan costs that it picks",
        "Excess of W2 over the best of all plans, the worst over three pairs of data variances "
        "and all T tried; what is less than 0.01 % is drawn at the foot.",
        lambda: regret_figure(record),
        _oracle_table(tables["oracle"]),
    )
    yield draw_section(
        "From which angle on",
        "The angle at which theory in the data's basis sees half of BOOT's error. Rule: "
        "sin²θ = ln 2 / (2 s Δς), for it takes the variance of the least noisy direction to be "
        "larger by Δς sin²θ, Δς = 1.5.",
        lambda: half_figure(record),
    )
    yield draw_section(
        "Where BOOT and vanilla cross",
        "Data variances √2 λ and λ/√2, noise variances 2 and 0.5: the scale λ at which both err "
        "equally. Where a line ends there is no crossing from 0.2 to 3.",
        lambda: crossing_figure(record),
    )
    yield draw_section(
        "Digits under noise that pixels share",
        "W2 of sequential BOOT; pixels k rows and columns apart have noise that correlates by ρᵏ.",
        lambda: digits_figure(record),
        _choice_table("digits", tables["digits"], "correlation", ("correlation",)),
    )
    yield draw_section(
        "What the law of the data changes",
        "A student j → 0 of one merge, trained on batches of 4: its mean squared error over that "
        "of the mean student. Lines: exact, from fourth moments. Points: simulated, with one "
        "standard error. All laws have the covariance of digits' six leading components.",
        lambda: law_figure(record),
        _law_table(tables["merges"]),
    )
    yield Section(
        "What becomes of the optima",
        "Random pairs in the plane, every plan for T = 4 tried. Where noise and data commute the "
        "named plan is best: BOOT if all μ are below 1, vanilla if all are above λ*, and under "
        "denoiser copy BOOT. Here: in how many draws another plan is better, and its gain at most.",
        table=replace(_draw_table(tables["draws"]), is_open=True),
        is_wide=True,
    )
    yield Section(
        "Random rotations",
        "Data variances from 0.05 to 20; noise variances from 1/4 to 4 in random order, rescaled "
        "to mean 1 and turned along a random geodesic, no direction by more than θ.",
        table=replace(
            _choice_table("rotations", tables["rotations"], "angle", ("seed", "angle")),
            is_open=True,
        ),
        is_wide=True,
    )
    yield Section(
        "Whole plans trained on samples",
        "Paired error of the closed form, of the mean of all students, and root mean square over "
        "students; the distance of the mean from the closed form in standard errors.",
        table=replace(_plan_table(tables["plans"]), is_open=True),
        is_wide=True,
    )


def _level_table(rows: list[Row]) -> Table:
    return make_table(
        "BOOT in the plane, and what theories have over the true W2",
        ("data", "θ", "W2", "paired / W2", *THEORIES.values()),
        [
            (
                CASES[row["case"]],
                f"{row['angle']:g}°",
                number(row["w2"]),
                *(number(ratio(row, name)) for name in ("paired", *THEORIES)),
            )
            for row in boot_rows(rows)
        ],
    )


def _oracle_table(rows: list[Row]) -> Table:
    return make_table(
        "Excess over the best plan, by what chose the plan",
        ("data", "θ", "T", "best W2", *PLANNED.values(), "best plan"),
        [
            (
                CASES[row["case"]],
                f"{row['angle']:g}°",
                str(row["num_steps"]),
                number(row["best"]),
                *(percent(_rounded(row[name])) for name in PLANNED),
                row["plan"],
            )
            for row in rows
        ],
    )


def _draw_table(rows: list[Row]) -> Table:
    return make_table(
        "Draws in which another plan beats the optimum of the scalar theory",
        ("rule", "all μ", "s", "optimum", "draws", "by W2", "gain", "by paired error", "gain"),
        [
            (
                row["merge_rule"],
                "< 1" if row["case"] == "below" else "> λ*",
                f"{row['merge_time']:g}",
                row["optimum"],
                str(row["draws"]),
                str(row["beaten"]),
                percent(_rounded(row["largest_ratio"] - 1)),
                str(row["beaten_paired"]),
                percent(_rounded(row["largest_ratio_paired"] - 1)),
            )
            for row in rows
        ],
    )


def _choice_table(name: str, rows: list[Row], key: str, keys: Sequence[str]) -> Table:
    """Of each value of a key the largest excess of every plan over the best one tried."""
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    worst: dict[float, dict[str, float]] = {}
    for row, regrets in regrets_tried(rows, keys):
        seen = worst.setdefault(row[key], dict.fromkeys(plans, 0.0))
        worst[row[key]] = {plan: max(seen[plan], regrets[plan]) for plan in plans}
    return make_table(
        f"Largest excess of W2 over the best plan tried, {name}",
        (key, *(plan.replace("_", " ") for plan in plans)),
        [
            (f"{value:g}", *(percent(_rounded(found[plan])) for plan in plans))
            for value, found in worst.items()
        ],
    )


def _law_table(rows: list[Row]) -> Table:
    return make_table(
        "Mean squared error of one merge over that of the mean student",
        ("law", "step j", "exact", "simulated", "s.e.", "flow on 50 samples"),
        [
            (
                row["law"],
                str(row["step"]),
                *(f"{row[key]:.4g}" for key in ("expected", "measured")),
                f"{row['standard_error']:.2g}",
                f"{row['data_set']:.3g}",
            )
            for row in rows
        ],
        "Last column: gradient flow on one small data set again and again, simulated, over flow "
        "on the whole law.",
    )


def _plan_table(rows: list[Row]) -> Table:
    return make_table(
        "Plans of 8 steps, batches of 4",
        ("law", "plan", "closed form", "mean student", "off by, s.e.", "root mean square"),
        [
            (
                row["law"],
                row["plan"],
                *(f"{row[key]:.4g}" for key in ("predicted", "mean_student")),
                f"{row['off_in_standard_errors']:.2f}",
                f"{row['root_mean_square']:.4g}",
            )
            for row in rows
        ],
    )


def _rounded(value: float) -> float:
    """A relative difference, 0 where it is rounding."""
    return value if value > 1e-9 else 0.0


def _most_standard_errors(rows: list[Row]) -> float:
    return max(float(row["off_in_standard_errors"]) for row in rows)


def _paired_counterexamples(rows: list[Row]) -> str:
    own = [r for r in rows if (r["merge_rule"], r["case"]) == ("operator-copy", "below")]
    return f"{sum(r['beaten_paired'] for r in own)} in {sum(r['draws'] for r in own)} draws here"
