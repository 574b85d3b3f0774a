"""The page of the study `correlated-noise`: noise that does not commute with the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.charts import DASHED, LOOKS, Axis, Series, curves, series_by, series_of
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, Table, draw_section
from opmerge.page.sentences import number, percent, times
from opmerge.page.study import Page, frame, table
from opmerge.plotting import GREY
from opmerge_studies.correlated_noise.problems import PLANE, plane_problem
from opmerge_studies.shared.transition import growth_threshold

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["page"]

_THEORIES = ["generalised", "data basis", "isotropic"]
_PLANNED = ["planned combs", "best named strategy", *_THEORIES]
_NAMES = {"data_basis": "data basis", "comb": "planned combs", "named": "best named strategy"}
_CASES = {case: ", ".join(f"{value:g}" for value in pair) for case, pair in PLANE.items()}
_SHOWN_CASE = "across"
_NEAR = 0.01
_FAR = 4.0  # standard errors, which one page in a thousand exceeds by chance
_ROUNDING = 1e-9
_DIGITS = 9  # of a relative difference; less is rounding
_LEAST_EXCESS = 1e-4  # drawn at the foot of the figure

_ANGLE = Axis(
    "angle between the axes of noise and data, degrees",
    log=False,
    ticks={angle: str(angle) for angle in range(0, 91, 15)},
)
_PAIR = {"data": "data:s", "θ, degrees": "angle:g"}
_DRAWS = (
    {"rule": "merge_rule:s", "all μ": "side:s", "s": "merge_time:g", "optimum": "optimum:s"}
    | {"draws": "draws:s", "by W2": "beaten:s", "gain": "gain:%"}
    | {"by paired error": "beaten_paired:s", "paired gain": "gain_paired:%"}
)
_MERGES = {"law": "law:s", "step j": "step:s", "exact": "expected:.4g"} | {
    "simulated": "measured:.4g",
    "s.e.": "standard_error:.2g",
    "flow on 50 samples": "data_set",
}
_PLANS = {"law": "law:s", "plan": "plan:s", "closed form": "predicted:.4g"} | {
    "mean student": "mean_student:.4g",
    "off by, s.e.": "off_in_standard_errors:.2f",
    "root mean square": "root_mean_square:.4g",
}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    tables = {name: frame(record, name).rename(columns=_NAMES) for name in record["tables"]}
    strategies, crossings, halves = (tables[k] for k in ("plane", "crossings", "half_angles"))
    rotations, digits, plans = (tables[key] for key in ("rotations", "digits", "plans"))
    plane = strategies.assign(
        data=strategies.case.map(_CASES),
        **strategies[["paired", *_THEORIES]].div(strategies.w2, axis=0),
    )
    oracle, draws = _oracle(tables["oracle"]), tables["draws"]
    draws = draws.assign(
        side=draws.case.map({"below": "< 1", "above": "> λ*"}),
        gain=(draws.largest_ratio - 1).round(_DIGITS),
        gain_paired=(draws.largest_ratio_paired - 1).round(_DIGITS),
    )
    optima = (
        draws.groupby(["merge_rule", "case", "optimum", "side"], sort=False)
        .agg(
            {"draws": "sum", "beaten": "sum", "beaten_paired": "sum"}
            | {"gain": "max", "gain_paired": "max"}
        )
        .reset_index()
    )
    below, above = (
        optima[(optima.merge_rule == "operator-copy") & (optima.case == case)].iloc[0]
        for case in ("below", "above")
    )
    choices = {
        "rotations": _choices(rotations, ["seed", "angle"]),
        "digits": _choices(digits, ["correlation"]),
    }
    merges = tables["merges"]
    merges = merges.assign(off=(merges.measured - merges.expected).abs() / merges.standard_error)
    batches = merges.groupby("step").expected
    spread = batches.max() / batches.min() - 1
    at_last = merges[merges.step == merges.step.max()].expected
    seen = halves.dropna()
    turned = rotations[(rotations.plan == "boot") & (rotations.angle == rotations.angle.max())]
    values = dict(
        record["settings"],
        theories=_THEORIES,
        off=plane[_THEORIES].apply(lambda ratios: np.exp(np.log(ratios).abs().max())),
        near=(oracle[_PLANNED] <= _NEAR).sum(),
        pairs=len(oracle),
        plans=plans,
        **_winners(strategies),
        worst=oracle.nlargest(1, "planned combs").iloc[0],
        off_rule=(seen.angle / seen.rule - 1).abs().max(),
        soonest=seen[seen.merge_time == seen.merge_time.max()].nsmallest(1, "angle"),
        optima=optima,
        below=below,
        crossings=crossings[["exact", *_THEORIES]].agg(["count", "min", "max"]).T,
        widest=rotations.angle.max(),
        levels=turned[_THEORIES].div(turned.w2, axis=0).agg(["min", "max"]).T,
        costs={name: rows.filter(like="planned").max() for name, rows in choices.items()},
        last=digits[digits.plan == "boot"].iloc[-1],
        spread=spread,
        merges=merges,
        paired=plane.paired.max(),
    )
    aligned = plane[plane.angle.isin((0, 90))][["generalised", "data basis"]]
    claims = {
        "exact-where-axes-agree": count(((aligned - 1).abs() < 1e-6).to_numpy().flat),
        "scalar-plans-near-best": count((oracle[_THEORIES] <= _NEAR).to_numpy().flat),
        "combs-near-best": count(oracle[~oracle.between]["planned combs"] <= _NEAR),
        "boot-optimal": _unbeaten(below, "beaten"),
        "boot-optimal-paired": _unbeaten(below, "beaten_paired"),
        "vanilla-optimal": _unbeaten(above, "beaten"),
        "mean-student-is-closed-form": count(plans.off_in_standard_errors < _FAR),
        "batches-by-fourth-moments": count(merges.off < _FAR),
        "law-unseen-at-T": count(at_last / at_last.min() - 1 < _ROUNDING),
    }
    sections = [
        *_plane_sections(plane, oracle, halves, crossings),
        _digits_section(digits[digits.plan == "boot"], choices["digits"]),
        _law_section(merges, spread),
        *_table_sections(draws, choices["rotations"], plans),
    ]
    return Page(values, claims, sections)


def _oracle(rows: pd.DataFrame) -> pd.DataFrame:
    """Excess of W2 over the best of all plans, and whether some μ lies between 1 and λ*."""
    cells = zip(rows.case, rows.angle, rows.num_steps, strict=True)
    values = np.array([plane_problem(PLANE[c], angle, t, 1.0).eigenvalues for c, angle, t in cells])
    thresholds = rows.num_steps.map(growth_threshold).to_numpy()[:, None]
    between = np.any((values > 1 + _ROUNDING) & (values < thresholds), axis=1)
    excess = rows[_PLANNED].round(_DIGITS)
    return rows.assign(data=rows.case.map(_CASES), between=between, **excess)


def _unbeaten(draws: pd.Series, key: str) -> Count:
    return Count(int(draws.draws - draws[key]), int(draws.draws))


def _winners(plane: pd.DataFrame) -> dict[str, Any]:
    """How often each strategy is best by W2, and how often theories name the one that is."""
    problems = plane.groupby(["case", "angle"], sort=False)
    best = {key: plane.plan[problems[key].idxmin()].to_numpy() for key in ("w2", *_THEORIES)}
    return {
        "wins": plane.plan[problems.w2.idxmin()].value_counts(),
        "right": {name: (best[name] == best["w2"]).sum() for name in _THEORIES},
    }


def _choices(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """By the last key and by plan, the largest excess of W2 over the best plan tried."""
    excess = (rows.w2 / rows.groupby(keys).w2.transform("min") - 1).round(_DIGITS)
    rows = rows.assign(excess=excess, plan=rows.plan.str.replace("_", " "))
    return rows.pivot_table("excess", keys[-1], "plan", "max", sort=False)


def _choice_table(name: str, choices: pd.DataFrame) -> Table:
    key = str(choices.index.name)
    return table(
        f"Largest excess of W2 over the best plan tried, {name}",
        choices.reset_index(),
        {key: f"{key}:g"} | {str(plan): f"{plan}:%" for plan in choices},
    )


def _plane_sections(
    plane: pd.DataFrame, oracle: pd.DataFrame, halves: pd.DataFrame, crossings: pd.DataFrame
) -> Iterator[Section]:
    boot = plane[plane.plan == "boot"]
    shown = boot[boot.case == _SHOWN_CASE]
    lowest = shown[_THEORIES].min().min()
    yield draw_section(
        "What scalar theory says of the error",
        "W2 of sequential BOOT as scalar theory has it, over its true W2; data variances "
        f"{_CASES[_SHOWN_CASE]}, noise variances 2 and 0.5. Generalised: the right teacher, but of "
        "the metric of the common frame the diagonal alone. Data basis: the noise's variances "
        "along the data's axes alone. Isotropic: noise of the same total variance.",
        curves(
            series_of(shown, "angle", _THEORIES),
            _ANGLE,
            Axis("W2 of theory / true W2", (lowest / 2, 3.0)),
            f"Between the axes scalar theory misses W2 by up to {times(1 / lowest)}",
        ),
        table(
            "BOOT in the plane, and what theories have over the true W2",
            boot,
            _PAIR | {"W2": "w2", "paired / W2": "paired"} | {name: name for name in _THEORIES},
        ),
    )
    names = [*_THEORIES, "planned combs"]
    yield draw_section(
        "What the plan costs that it picks",
        "Excess of W2 over the best of all plans, the worst over three pairs of data variances "
        "and all T tried; what is less than 0.01 % is drawn at the foot.",
        curves(
            series_of(
                oracle.groupby("angle")[names].max().clip(lower=_LEAST_EXCESS).reset_index(),
                "angle",
                names,
            ),
            _ANGLE,
            Axis("excess of W2 over the best plan", (_LEAST_EXCESS / 1.3, 3.0)),
            "Combs planned with the matrices are within 1 % of the best plan at "
            f"{(oracle['planned combs'] <= _NEAR).sum()} of {len(oracle)} pairs",
            columns=2,
        ),
        table(
            "Excess over the best plan, by what chose the plan",
            oracle,
            _PAIR
            | {"T": "num_steps:s", "best W2": "best"}
            | {name: f"{name}:%" for name in _PLANNED}
            | {"best plan": "plan:s"},
        ),
    )

    rule = halves[["merge_time", "rule"]].drop_duplicates()
    yield draw_section(
        "From which angle on",
        "The angle at which theory in the data's basis sees half of BOOT's error. Rule: "
        "sin²θ = ln 2 / (2 s Δς), for it takes the variance of the least noisy direction to be "
        "larger by Δς sin²θ, Δς = 1.5.",
        curves(
            [
                *series_by(
                    halves.assign(data="data " + halves.case.map(_CASES)),
                    *("data", "merge_time", "angle"),
                    linestyle="",
                ),
                Series("rule", rule.merge_time, rule.rule, {"color": GREY, "linestyle": DASHED}),
            ],
            Axis("optimisation time s of a merge", (0.8, 12.5)),
            Axis("angle of half the error, degrees", (5.0, 50.0)),
            "Theory in the data's basis sees less than half of the error before 45° in "
            f"{halves.angle.count()} of {len(halves)} cases",
            columns=2,
        ),
    )
    yield draw_section(
        "Where BOOT and vanilla cross",
        "Data variances √2 λ and λ/√2, noise variances 2 and 0.5: the scale λ at which both err "
        "equally. Where a line ends there is no crossing from 0.2 to 3.",
        curves(
            series_of(crossings, "angle", [*_THEORIES, "exact"]),
            _ANGLE,
            Axis("crossing, data scale λ", (0.2, 3.0)),
            f"BOOT and vanilla cross at {crossings.exact.count()} of {len(crossings)} angles",
            columns=2,
        ),
    )


def _digits_section(boot: pd.DataFrame, choices: pd.DataFrame) -> Section:
    last = boot.iloc[-1]
    return draw_section(
        "Digits under noise that pixels share",
        "W2 of sequential BOOT; pixels k rows and columns apart have noise that correlates by ρᵏ.",
        curves(
            series_of(boot.rename(columns={"w2": "exact"}), "correlation", [*_THEORIES, "exact"]),
            Axis("correlation ρ of neighbouring pixels' noise", log=False),
            Axis("W2 to the teacher, BOOT", (0.3 * boot.isotropic.min(), 3.0)),
            f"At ρ = {last.correlation:g} BOOT errs by {number(last.w2)}; theory that ignores "
            f"the correlation says {number(last.isotropic)}",
            columns=2,
        ),
        _choice_table("digits", choices),
    )


def _law_section(rows: pd.DataFrame, spread: pd.Series) -> Section:
    series = []
    for (law, own), look in zip(rows.groupby("law", sort=False), LOOKS, strict=False):
        ends = own.measured - own.standard_error, own.measured + own.standard_error
        series += [
            Series("", own.step, own.expected, {"color": look["color"]}),
            Series(str(law), own.step, own.measured, {**look, "linestyle": ""}, *ends),
        ]
    return draw_section(
        "What the law of the data changes",
        "A student j → 0 of one merge, trained on batches of 4: its mean squared error over that "
        "of the mean student. Lines: exact, from fourth moments. Points: simulated, with one "
        "standard error. All laws have the covariance of digits' six leading components.",
        curves(
            series,
            Axis(
                "step j that the student reads, of 8",
                log=False,
                ticks={j: str(j) for j in spread.index},
            ),
            Axis("mean square / that of the mean", log=False),
            f"The law of the data changes what batches add by {percent(spread.iloc[0])} near the "
            f"data and by {percent(spread.iloc[-1])} at T",
            columns=2,
        ),
        table(
            "Mean squared error of one merge over that of the mean student",
            rows,
            _MERGES,
            "Last column: gradient flow on one small data set again and again, simulated, over "
            "flow on the whole law.",
        ),
    )


def _table_sections(
    draws: pd.DataFrame, rotations: pd.DataFrame, plans: pd.DataFrame
) -> Iterator[Section]:
    """Sections whose table is all there is to see."""
    drawn = "Draws in which another plan beats the optimum of the scalar theory"
    for heading, caption, numbers in (
        (
            "What becomes of the optima",
            "Random pairs in the plane, every plan for T = 4 tried. Where noise and data commute "
            "the named plan is best: BOOT if all μ are below 1, vanilla if all are above λ*, and "
            "under denoiser copy BOOT. Here: in how many draws another plan is better, and its "
            "gain at most.",
            table(drawn, draws, _DRAWS),
        ),
        (
            "Random rotations",
            "Data variances from 0.05 to 20; noise variances from 1/4 to 4 in random order, "
            "rescaled to mean 1 and turned along a random geodesic, no direction by more than θ.",
            _choice_table("rotations", rotations),
        ),
        (
            "Whole plans trained on samples",
            "Paired error of the closed form, of the mean of all students, and root mean square "
            "over students; the distance of the mean from the closed form in standard errors.",
            table("Plans of 8 steps, batches of 4", plans, _PLANS),
        ),
    ):
        yield Section(heading, caption, table=replace(numbers, is_open=True), is_wide=True)
