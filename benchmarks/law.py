"""``python -m benchmarks.law``: the prior law of merges fitted to trained plans, and its forecasts.

``trained_plans/`` holds plans of `opmerge study budgets` and others that were trained beside them
(a perceptron, linear parts solved, T = 32, rate 9e-4), with the errors that they left, and the
tables of the two teachers. The prior is a fit to those marked ``fitted``; the others were trained
later.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from opmerge.forecast import LAW_PRIORS, MergeLaw, TeacherTable, read_table
from opmerge.forecast.composition import squared_errors
from opmerge.plans.drawing import plan_from_merges
from opmerge.plans.tree import Plan

FOLDER = Path(__file__).with_name("trained_plans")
SPREADS = np.array([3.0, 1.0, 1.0, 1.5, 1.0, 1.0, 2.0])  # of a law's vector: hardly any prior
NOISE = 0.1  # of the logarithm of an error
STEP = 1e-4  # of the vector, for derivatives


@dataclass(frozen=True)
class TrainedPlan:
    """A plan, what its merges were trained for, and the paired error that it left."""

    data: str
    plan: Plan
    iterations: tuple[int, ...]
    measured: float
    fitted: bool


def trained_plans() -> list[TrainedPlan]:
    """All of the folder."""
    entries = json.loads(gzip.decompress((FOLDER / "plans.json.gz").read_bytes()))
    return [
        TrainedPlan(e["data"], _plan(e), e["iterations"], e["measured"], e["fitted"])
        for e in entries
    ]


def _plan(entry: dict[str, Any]) -> Plan:
    merges = [{"boundaries": boundaries} for boundaries in entry["merge_list"]]
    return plan_from_merges(merges, entry["boundaries"], "free_step" in entry)


def ratios(
    laws: Sequence[MergeLaw], plans: Sequence[TrainedPlan], tables: dict[str, TeacherTable]
) -> NDArray[np.float64]:
    """(laws, plans) foretold over measured errors."""
    errors = [
        np.sqrt(squared_errors(laws, tables[each.data], each.plan, each.iterations)) / each.measured
        for each in plans
    ]
    return np.array(errors).T


def fitted_law(plans: Sequence[TrainedPlan], tables: dict[str, TeacherTable]) -> MergeLaw:
    """The law of least squares of log(foretold / measured), large ones softened, near the prior."""
    start = LAW_PRIORS["mlp-solved"].centre.to_vector()
    count = {each.data: sum(other.data == each.data for other in plans) for each in plans}
    weights = np.sqrt([40 / count[each.data] for each in plans]) / NOISE  # data sets count alike

    def logs(*vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(ratios([MergeLaw.from_vector(each) for each in vectors], plans, tables))

    def residuals(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([weights * logs(at)[0], (at - start) / SPREADS])

    def slopes(at: NDArray[np.float64]) -> NDArray[np.float64]:
        here, *moved = logs(at, *(at + STEP * np.eye(len(at))))
        by_vector = (np.array(moved) - here).T / STEP
        return np.concatenate([weights[:, None] * by_vector, np.diag(1 / SPREADS)])

    return MergeLaw.from_vector(least_squares(residuals, start, slopes, loss="soft_l1").x)


def tell(title: str, law: MergeLaw, plans: Sequence[TrainedPlan], tables: Any) -> None:
    """Print how a law foretells plans, by data set, those of the fit and the others."""
    print(f"{title}: {law}")
    for data in tables:
        for is_fitted in (True, False):
            own = [each for each in plans if (each.data, each.fitted) == (data, is_fitted)]
            found = ratios([law], own, tables)[0]
            rho = spearmanr(
                found * [each.measured for each in own], [each.measured for each in own]
            )
            close = int(((found < 1.3) & (found > 1 / 1.3)).sum())
            which = "fitted" if is_fitted else "trained later"
            print(f"  {data}, {which}: {close} of {len(own)} within 1.3, ρ {rho.statistic:.2f}")


def main() -> None:
    plans = trained_plans()
    tables = {data: read_table(FOLDER / f"{data}.npz") for data in ("digits", "patches")}
    tell("the prior", LAW_PRIORS["mlp-solved"].centre, plans, tables)
    tell("fitted here", fitted_law([e for e in plans if e.fitted], tables), plans, tables)
    tell("fitted to all", fitted_law(plans, tables), plans, tables)


if __name__ == "__main__":
    main()
