"""The page of the study `correlated-noise`: noise that does not commute with the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import DASHED, LOOKS, Axis, Series, chart, series_by, series_of
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, Table
from opmerge.page.sentences import number, percent, times
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import GREY
from opmerge_studies.correlated_noise.problems import PLANE, plane_problem
from opmerge_studies.shared.transition import growth_threshold

_THEORIES = ["generalised", "data basis", "isotropic"]
_PLANNED = ["planned combs", "best named strategy", *_THEORIES]
_NAMES = {"data_basis": "data basis", "comb": "planned combs", "named": "best named strategy"}
_CASES = {case: ", ".join(f"{value:g}" for value in pair) for case, pair in PLANE.items()}
_SHOWN_CASE = "across"
_NEAR = 0.01
_FAR = 3.0  # standard errors, which one page in twenty exceeds by chance
_ROUNDING = 1e-9
_DIGITS = 9  # of a relative difference; less is rounding
_LEAST_EXCESS = 1e-4  # drawn at the foot of the figure

_TICKS: Mapping[float, str] = {angle: str(angle) for angle in range(0, 91, 15)}
_ANGLE = Axis("angle between the axes of noise and data, degrees", log=False, ticks=_TICKS)
_PAIR = ("data:s", "θ, degrees=angle:g")


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    tables = {name: frame(record, name).rename(columns=_NAMES) for name in record["tables"]}
    crossings, halves, plans = (tables[key] for key in ("crossings", "half_angles", "plans"))
    strategies, rotations, digits = (tables[key] for key in ("plane", "rotations", "digits"))
    plane = strategies.assign(
        data=strategies.case.map(_CASES),
        **strategies[["paired", *_THEORIES]].div(strategies.w2, axis=0),
    )
    oracle = _oracle(tables["oracle"])
    draws = tables["draws"].assign(
        side=lambda row: row.case.map({"below": "< 1", "above": "> λ*"}),
        gain=lambda row: (row.largest_ratio - 1).round(_DIGITS),
        gain_paired=lambda row: (row.largest_ratio_paired - 1).round(_DIGITS),
    )
    sums = dict.fromkeys(("draws", "beaten", "beaten_paired"), "sum")
    groups = draws.groupby(["merge_rule", "case", "optimum", "side"], sort=False)
    optima = groups.agg({**sums, "gain": "max", "gain_paired": "max"}).reset_index()
    copied = optima[optima.merge_rule == "operator-copy"]
    below, above = (copied[copied.case == case].iloc[0] for case in ("below", "above"))
    choices = {
        "rotations": _choices(rotations, ["seed", "angle"]),
        "digits": _choices(digits, ["correlation"]),
    }
    merges = tables["merges"]
    merges = merges.assign(off=(merges.measured - merges.expected).abs() / merges.standard_error)
    problems = strategies.groupby(["case", "angle"], sort=False)
    winners = problems[["w2", *_THEORIES]].idxmin().apply(lambda rows: rows.map(strategies["plan"]))
    spread = _spread(merges)
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
        wins=winners.w2.value_counts(),
        right={name: (winners[name] == winners.w2).sum() for name in _THEORIES},
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
        "boot-optimal": Count(int(below.draws - below.beaten), int(below.draws)),
        "boot-optimal-paired": Count(int(below.draws - below.beaten_paired), int(below.draws)),
        "vanilla-optimal": Count(int(above.draws - above.beaten), int(above.draws)),
        "mean-student-is-closed-form": count(plans.off_in_standard_errors < _FAR),
        "batches-by-fourth-moments": count(merges.off < _FAR),
        "law-unseen-at-T": count(at_last / at_last.min() - 1 < _ROUNDING),
    }
    rows = {**tables, "plane": plane, "oracle": oracle, "draws": draws, "merges": merges}
    return Page(values, claims, _sections(rows, choices))


def _oracle(rows: pd.DataFrame) -> pd.DataFrame:
    """Excess of W2 over the best of all plans, and whether some μ lies between 1 and λ*."""
    cells = zip(rows.case, rows.angle, rows.num_steps, strict=True)
    values = np.array([plane_problem(PLANE[c], angle, t, 1.0).eigenvalues for c, angle, t in cells])
    thresholds = rows.num_steps.map(growth_threshold).to_numpy()[:, None]
    between = np.any((values > 1 + _ROUNDING) & (values < thresholds), axis=1)
    excess = rows[_PLANNED].round(_DIGITS)
    return rows.assign(data=rows.case.map(_CASES), between=between, **excess)


def _spread(merges: pd.DataFrame) -> pd.Series[float]:
    """By how much the law of the data changes what batches add, by step."""
    by_step = merges.groupby("step").expected
    return by_step.max() / by_step.min() - 1


def _choices(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The largest excess of W2 over the best plan tried, by the last key and by plan."""
    excess = (rows.w2 / rows.groupby(keys).w2.transform("min") - 1).round(_DIGITS)
    rows = rows.assign(excess=excess, plan=rows.plan.str.replace("_", " "))
    return rows.pivot_table("excess", keys[-1], "plan", "max", sort=False)


def _choice_table(name: str, choices: pd.DataFrame, is_open: bool = False) -> Table:
    columns = heads(f"{choices.index.name}:g", *(f"{plan}:%" for plan in choices))
    caption = f"Largest excess of W2 over the best plan tried, {name}"
    return table(caption, choices.reset_index(), columns, is_open=is_open)


def _sections(
    rows: Mapping[str, pd.DataFrame], choices: Mapping[str, pd.DataFrame]
) -> Iterator[Section]:
    plane, oracle, halves, merges = (rows[k] for k in ("plane", "oracle", "half_angles", "merges"))
    boot, crossings = plane[plane.plan == "boot"], rows["crossings"]
    shown = boot[boot.case == _SHOWN_CASE]
    lowest = shown[_THEORIES].min().min()
    yield chart(
        "What scalar theory says of the error",
        "W2 of sequential BOOT as scalar theory has it, over its true W2; data variances "
        f"{_CASES[_SHOWN_CASE]}, noise variances 2 and 0.5. Generalised: the right teacher, but of "
        "the metric of the common frame the diagonal alone. Data basis: the noise's variances "
        "along the data's axes alone. Isotropic: noise of the same total variance.",
        series_of(shown, "angle", _THEORIES),
        _ANGLE,
        Axis("W2 of theory / true W2", (lowest / 2, 3.0)),
        f"Between the axes scalar theory misses W2 by up to {times(1 / lowest)}",
        table(
            "BOOT in the plane, and what theories have over the true W2",
            boot,
            heads(*_PAIR, "W2=w2", "paired / W2=paired", *_THEORIES),
        ),
    )
    names = [*_THEORIES, "planned combs"]
    excess = oracle.groupby("angle")[names].max()
    yield chart(
        "What the plan costs that it picks",
        "Excess of W2 over the best of all plans, the worst over three pairs of data variances "
        "and all T tried; what is less than 0.01 % is drawn at the foot.",
        series_of(excess.clip(lower=_LEAST_EXCESS).reset_index(), "angle", names),
        _ANGLE,
        Axis("excess of W2 over the best plan", (_LEAST_EXCESS / 1.3, 3.0)),
        "Combs planned with the matrices are within 1 % of the best plan at "
        f"{(oracle['planned combs'] <= _NEAR).sum()} of {len(oracle)} pairs",
        table(
            "Excess over the best plan, by what chose the plan",
            oracle,
            heads(
                *(*_PAIR, "T=num_steps:s", "best W2=best"),
                *(*(f"{name}:%" for name in _PLANNED), "best plan=plan:s"),
            ),
        ),
        columns=2,
    )
    rule = halves[["merge_time", "rule"]].drop_duplicates()
    named = halves.assign(data="data " + halves.case.map(_CASES))
    yield chart(
        "From which angle on",
        "The angle at which theory in the data's basis sees half of BOOT's error. Rule: "
        "sin²θ = ln 2 / (2 s Δς), for it takes the variance of the least noisy direction to be "
        "larger by Δς sin²θ, Δς = 1.5.",
        [
            *series_by(named, "data", "merge_time", "angle", linestyle=""),
            Series("rule", rule.merge_time, rule.rule, {"color": GREY, "linestyle": DASHED}),
        ],
        Axis("optimisation time s of a merge", (0.8, 12.5)),
        Axis("angle of half the error, degrees", (5.0, 50.0)),
        "Theory in the data's basis sees less than half of the error before 45° in "
        f"{halves.angle.count()} of {len(halves)} cases",
        columns=2,
    )
    yield chart(
        "Where BOOT and vanilla cross",
        "Data variances √2 λ and λ/√2, noise variances 2 and 0.5: the scale λ at which both err "
        "equally. Where a line ends there is no crossing from 0.2 to 3.",
        series_of(crossings, "angle", [*_THEORIES, "exact"]),
        _ANGLE,
        Axis("crossing, data scale λ", (0.2, 3.0)),
        f"BOOT and vanilla cross at {crossings.exact.count()} of {len(crossings)} angles",
        columns=2,
    )
    boot = rows["digits"].query("plan == 'boot'")
    last = boot.iloc[-1]
    yield chart(
        "Digits under noise that pixels share",
        "W2 of sequential BOOT; pixels k rows and columns apart have noise that correlates by ρᵏ.",
        series_of(boot.rename(columns={"w2": "exact"}), "correlation", [*_THEORIES, "exact"]),
        Axis("correlation ρ of neighbouring pixels' noise", log=False),
        Axis("W2 to the teacher, BOOT", (0.3 * boot.isotropic.min(), 3.0)),
        f"At ρ = {last.correlation:g} BOOT errs by {number(last.w2)}; theory that ignores "
        f"the correlation says {number(last.isotropic)}",
        _choice_table("digits", choices["digits"]),
        columns=2,
    )
    series = []
    for (law, own), look in zip(merges.groupby("law", sort=False), LOOKS, strict=False):
        ends = own.measured - own.standard_error, own.measured + own.standard_error
        series += [
            Series("", own.step, own.expected, {"color": look["color"]}),
            Series(str(law), own.step, own.measured, {**look, "linestyle": ""}, *ends),
        ]
    spread = _spread(merges)
    steps = {step: str(step) for step in spread.index}
    yield chart(
        "What the law of the data changes",
        "A student j → 0 of one merge, trained on batches of 4: its mean squared error over that "
        "of the mean student. Lines: exact, from fourth moments. Points: simulated, with one "
        "standard error. All laws have the covariance of digits' six leading components.",
        series,
        Axis("step j that the student reads, of 8", log=False, ticks=steps),
        Axis("mean square / that of the mean", log=False),
        f"The law of the data changes what batches add by {percent(spread.iloc[0])} near the "
        f"data and by {percent(spread.iloc[-1])} at T",
        table(
            "Mean squared error of one merge over that of the mean student",
            merges,
            heads(
                *("law:s", "step j=step:s", "exact=expected:.4g", "simulated=measured:.4g"),
                *("s.e.=standard_error:.2g", "flow on 50 samples=data_set"),
            ),
            "Last column: gradient flow on one small data set again and again, simulated, over "
            "flow on the whole law.",
        ),
        columns=2,
    )
    yield Section(
        "What becomes of the optima",
        "Random pairs in the plane, every plan for T = 4 tried. Where noise and data commute the "
        "named plan is best: BOOT if all μ are below 1, vanilla if all are above λ*, and under "
        "denoiser copy BOOT. Here: in how many draws another plan is better, and its gain at most.",
        table=table(
            "Draws in which another plan beats the optimum of the scalar theory",
            rows["draws"],
            heads(
                *("rule=merge_rule:s", "all μ=side:s", "s=merge_time:g", "optimum:s", "draws:s"),
                *("by W2=beaten:s", "gain:%", "by paired error=beaten_paired:s"),
                "paired gain=gain_paired:%",
            ),
            is_open=True,
        ),
        is_wide=True,
    )
    yield Section(
        "Random rotations",
        "Data variances from 0.05 to 20; noise variances from 1/4 to 4 in random order, rescaled "
        "to mean 1 and turned along a random geodesic, no direction by more than θ.",
        table=_choice_table("rotations", choices["rotations"], is_open=True),
        is_wide=True,
    )
    yield Section(
        "Whole plans trained on samples",
        "Paired error of the closed form, of the mean of all students, and root mean square over "
        "students; the distance of the mean from the closed form in standard errors.",
        table=table(
            "Plans of 8 steps, batches of 4",
            rows["plans"],
            heads(
                *("law:s", "plan:s", "closed form=predicted:.4g"),
                *("mean student=mean_student:.4g", "off by, s.e.=off_in_standard_errors:.2f"),
                "root mean square=root_mean_square:.4g",
            ),
            is_open=True,
        ),
        is_wide=True,
    )
