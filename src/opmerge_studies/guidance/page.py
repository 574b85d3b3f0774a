"""The page of the study `guidance`: where BOOT gives way, and what the best plans are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from opmerge.page.charts import DASHED, DOTTED, Axis, Series, chart, series_by
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import GREY
from opmerge_studies.shared.strategies import CANONICAL

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_NEAR = 1.1  # a plan within a tenth of the best is as good
_TRANSITION_COLUMNS = heads(
    *("share r=share:g", "w=scale:g", "crossing=crossing:.5g", "crossings"),
    *("noise end=noise_end:.5g", "data end=data_end:.5g"),
)
_PLAN_COLUMNS = heads(
    *("w=scale:g", "λ=eigenvalue:.4g", "best", *CANONICAL, "best without guidance=unguided"),
    *("from the guided teacher=from_teacher", "in the means=means:.0%", "shape", "merges", "plan"),
)
_DIGIT_COLUMNS = heads("rule=merge_rule", "w=scale:g", "best", "name", *CANONICAL)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    crossed, plans, digits = (frame(record, name) for name in ("transitions", "plans", "digits"))
    plans = plans.assign(
        called="w = " + plans.scale.map("{:g}".format),
        boot_is_best=plans.boot <= plans.best * (1 + _EQUAL),
        regret=plans.unguided / plans.best,
        boot_regret=plans.boot / plans.best,
    )
    guided, plain = plans[plans.scale > 1], plans[plans.scale == 1]
    copied = guided[guided.merge_rule == "denoiser-copy"]
    operators = guided[guided.merge_rule == "operator-copy"]
    plain_copied = plain[plain.merge_rule == "denoiser-copy"]
    moved = crossed.groupby("share").crossing.diff().dropna()
    places = crossed[crossed.crossing.notna()]
    strong = digits[digits.scale > 1]
    claims = {
        "crossing-moves-up": count(moved > 0),
        "crossing-above-the-data-end": count(places.crossing > places.data_end),
        "boot-best-without-guidance": count(plain_copied.boot_is_best),
        "boot-best-under-guidance": count(copied.boot_is_best),
        "plans-for-none-will-do": count(guided.regret <= _NEAR),
        "means-hold-the-error": count(guided.means > 0.5),
        "start-is-what-counts": count(copied.from_teacher < 0.5 * copied.best),
        "boot-best-on-digits": count(strong.boot <= strong.best * (1 + _EQUAL)),
    }
    values = {
        **{"crossed": crossed, "copied": copied, "operators": operators, "digits": digits},
        **{"plain": plain_copied, "guided": guided, "share": digits.share.iloc[0]},
        "commuting": digits.commuting.iloc[0],
    }
    return Page(values, claims, _sections(crossed, plans, digits))


def _sections(
    crossed: pd.DataFrame, plans: pd.DataFrame, digits: pd.DataFrame
) -> Iterator[Section]:
    named = crossed.assign(called="r = " + crossed.share.map("{:g}".format))
    middle = named[named.share == named.share.unique()[named.share.nunique() // 2]]
    yield chart(
        "Where vanilla overtakes BOOT",
        "Under operator copy, by the share r of the conditions' means in the variance. Below a "
        "line BOOT errs less, above it vanilla. Dashed and dotted, for the share in the middle: up "
        "to which λ steps at the data end and at the noise end contract.",
        [
            *series_by(named, "called", "scale", "crossing"),
            Series("data end", middle.scale, middle.data_end, {"color": GREY, "linestyle": DASHED}),
            Series(
                "noise end", middle.scale, middle.noise_end, {"color": GREY, "linestyle": DOTTED}
            ),
        ],
        Axis("guidance scale w", margin=1.02),
        Axis("data variance λ of the crossing", margin=1.1),
        "Guidance moves the transition to larger λ: it contracts z",
        table("BOOT and vanilla", crossed, _TRANSITION_COLUMNS),
    )
    share = plans.share.max()
    rows = plans[(plans.merge_rule == "denoiser-copy") & (plans.share == share)]
    yield chart(
        "What BOOT loses",
        f"Error of BOOT over that of the best of all plans, under denoiser copy, r = {share:g}.",
        series_by(rows, "called", "eigenvalue", "boot_regret", dashes=True, marker=""),
        Axis("data variance λ", margin=1.0),
        Axis("error, best plan = 1", margin=1.1),
        "Under guidance BOOT is no longer the best for every data set",
        table(f"Plans under denoiser copy, r = {share:g}", rows, _PLAN_COLUMNS),
    )
    yield chart(
        "What guidance leaves to be learned",
        f"Error of the best plan, under denoiser copy, r = {share:g}: a student starts with the "
        "network's weights, which are not guided.",
        series_by(rows, "called", "eigenvalue", "best", dashes=True, marker=""),
        Axis("data variance λ", margin=1.0),
        Axis("error of the best plan", margin=1.1),
        "Guided students are left with far more where λ is small",
        table("Digits and their classes", digits, _DIGIT_COLUMNS),
    )
