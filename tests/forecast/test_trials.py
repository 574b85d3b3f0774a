"""What trained plans teach of a law: against a grid, the truth, and what must stay as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from forecast_cases import a_law, a_table
from numpy.typing import NDArray

from opmerge import InputError
from opmerge.forecast import LAW_PRIORS, FittedLaw, MergeLaw, Trial, forecast, law_after
from opmerge.plans import build_strategy

STEPS, SCATTER = 8, 0.06
TABLE = a_table(STEPS)
NAMES = ("vanilla", "boot", "progressive", "consistency", "uniform:4", "uniform:2")


def trial(law: MergeLaw, name: str, count: int, factor: float = 1.0) -> Trial:
    """A plan that leaves what a law says, times a factor."""
    plan = build_strategy(name, STEPS, 1)
    iterations = (count,) * len(plan.merges)
    left = forecast(FittedLaw(law, (), 0.0, ""), TABLE, plan, iterations).rms
    return Trial(plan, iterations, factor * left)


def misses(law: MergeLaw, trials: list[Trial]) -> NDArray[np.float64]:
    known = FittedLaw(law, (), 0.0, "")
    foretold = [forecast(known, TABLE, each.plan, each.iterations).rms for each in trials]
    return np.log(foretold) - np.log([each.measured for each in trials])


def test_one_unknown_is_where_a_grid_finds_it() -> None:
    """Of laws that differ in their rates alone: the least of the squares, and their curvature."""
    centre, spread = a_law(TABLE).to_vector(), 0.5
    groups = len(TABLE.sizes)

    def moved(by: float) -> MergeLaw:
        return MergeLaw.from_vector(centre + by * (np.arange(len(centre)) < groups))

    known = FittedLaw(moved(0.0), (moved(spread), moved(-spread)), SCATTER, "two laws")
    trials = [trial(moved(0.7), "vanilla", 50), trial(moved(0.4), "boot", 30, 1.05)]
    learned = law_after(known, TABLE, trials)
    grid = np.linspace(-1.5, 1.5, 3001)
    losses = [
        (misses(moved(by), trials) ** 2).sum() / SCATTER**2 + (by / spread) ** 2 for by in grid
    ]
    best = int(np.argmin(losses))
    found = learned.law.to_vector() - centre
    assert np.ptp(found[:groups]) < 1e-9
    assert found[0] == pytest.approx(grid[best], abs=2e-3)
    step = grid[1] - grid[0]
    curvature = (losses[best + 50] - 2 * losses[best] + losses[best - 50]) / (50 * step) ** 2
    moves = np.array([draw.to_vector()[0] for draw in learned.draws]) - learned.law.to_vector()[0]
    # of 32 draws a standard deviation is off by 1/√64; Gauss-Newton leaves out second derivatives
    assert moves.std() == pytest.approx(np.sqrt(2 / curvature), rel=0.4)
    assert moves.std() < 0.7 * spread


def test_plans_that_were_not_trained_are_foretold_better_and_more_surely() -> None:
    """A truth that learns eight times as slowly as expected, and what short trials make of it."""
    prior = LAW_PRIORS["mlp-solved"].fitted(TABLE.sizes)
    truth = replace(prior.law, rates=tuple(rate / 8.0 for rate in prior.law.rates))
    learned = law_after(prior, TABLE, [trial(truth, name, 200) for name in NAMES[:3]])
    others = [trial(truth, name, 400) for name in NAMES[3:]]
    before, after = (np.abs(misses(law.law, others)).max() for law in (prior, learned))
    assert after < 0.5 * before
    for each in others:
        one, other = (forecast(law, TABLE, each.plan, each.iterations) for law in (prior, learned))
        assert np.std(np.log(other.draws)) < np.std(np.log(one.draws))


def test_what_was_expected_changes_nothing_but_the_doubt() -> None:
    prior = LAW_PRIORS["mlp-solved"].fitted(TABLE.sizes)
    learned = law_after(prior, TABLE, [trial(prior.law, name, 80) for name in NAMES])
    np.testing.assert_allclose(learned.law.to_vector(), prior.law.to_vector(), atol=1e-6)
    assert learned.scatter == prior.scatter
    assert len(learned.draws) == len(prior.draws)
    again = FittedLaw.from_dict(learned.to_dict())
    assert again == learned


def test_without_trials_or_doubt_the_law_is_the_same() -> None:
    sure = FittedLaw(a_law(TABLE), (), 0.1, "sure")
    assert law_after(sure, TABLE, [trial(a_law(TABLE), "boot", 9, 2.0)]) is sure
    prior = LAW_PRIORS["mlp"].fitted(TABLE.sizes)
    assert law_after(prior, TABLE, []) is prior


@pytest.mark.parametrize("measured", [0.0, -1.0, float("nan"), float("inf")])
def test_a_trial_must_have_left_something(measured: float) -> None:
    with pytest.raises(InputError, match="measured"):
        Trial(build_strategy("vanilla", STEPS, 1), (4,), measured)


def test_trials_of_other_teachers_are_refused() -> None:
    law = LAW_PRIORS["mlp"].fitted(TABLE.sizes)
    with pytest.raises(InputError, match="plan"):
        law_after(law, TABLE, [Trial(build_strategy("vanilla", 16, 1), (4,), 1.0)])
    with pytest.raises(InputError, match="iterations"):
        law_after(law, TABLE, [Trial(build_strategy("vanilla", STEPS, 1), (4, 4), 1.0)])
