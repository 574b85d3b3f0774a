"""Training at rates spread by a gamma law: the model, the columns it adds, and what they cost."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import gamma

from opmerge import (
    GammaRates,
    GradientFlow,
    InputError,
    Outcome,
    PlanFile,
    Problem,
    build_strategy,
    cosine_schedule,
    eigenvalue_spectrum,
    evaluate,
    find_plan,
)
from opmerge.planners import brute_force_plan, certified_plan
from opmerge.planners.brute_force import all_plans
from opmerge.planners.record import plan_record, prediction, summary
from opmerge.problem import MergeRule
from opmerge.training import TrainingModel, training_from_dict

EIGENVALUES = [2.8, 1.6, 1.02, 0.4, 0.05]


def rates(shape: float, scale: float, exponent: float = 1.0, **more: Any) -> GammaRates:
    return GammaRates(shape, scale, exponent, 400, 1e-3, 400, 1e-3, **more)


def problem(training: TrainingModel, steps: int = 6, rule: MergeRule = "operator-copy") -> Problem:
    return Problem(eigenvalue_spectrum(EIGENVALUES), cosine_schedule(steps), training, rule)


def modes_mean(model: GammaRates, power: float, variance: float) -> float:
    """E[retention^power] by the model's own modes."""
    left = [model.retention(np.array([variance]), m)[0] for m in range(model.num_modes)]
    return float(np.dot(model.mode_weights, np.power(left, power)))


@pytest.mark.parametrize("shape", [0.05, 0.2, 0.7, 1, 3, 20, 1e4])
@pytest.mark.parametrize("spread", [0.05, 1, 30, 1e4, 1e5])
def test_modes_give_the_gamma_laws_mean(shape: float, spread: float) -> None:
    """E exp(-u k) of Gamma(a, θ) is (1 + u θ)^(-a); 2 % as promised, above what training sees.

    A scale of up to 1e3, because variances of z_t are about 1 and rarely above 100.
    """
    model = rates(shape, min(spread, 1e3))
    variance = spread / model.scale
    for power in (1, 2, 3):
        expected = (1 + power * spread) ** -shape
        tolerance = max(0.02 * expected, 1e-12)
        assert modes_mean(model, power, variance) == pytest.approx(expected, abs=tolerance)
    assert model.mean_square(np.array([variance]))[0] == pytest.approx((1 + 2 * spread) ** -shape)
    assert sum(model.mode_weights) == pytest.approx(1, abs=1e-12)


def test_iterations_learning_rate_and_variance_enter_as_stated() -> None:
    model = GammaRates(0.7, 25, 0.5, 100, 2e-3, 400, 1e-3, learning_rate_exponent=2)
    assert model.scale_used == pytest.approx(25 * (100 / 400) * 2**2)
    at_4, at_1 = (model.retention(np.array([n]), 7)[0] for n in (4.0, 1.0))
    assert math.log(at_4) == pytest.approx(4**0.5 * math.log(at_1))


@pytest.mark.parametrize("strategy", ["vanilla", "boot", "consistency", "progressive"])
@pytest.mark.parametrize("rule", ["operator-copy", "denoiser-copy"])
def test_a_plans_error_is_the_mean_over_gradient_flows(strategy: str, rule: MergeRule) -> None:
    """p = 1: a mode of rate k is gradient flow for s = k / 2, in every merge; quad integrates."""
    shape, scale = 0.7, 3.0
    plan = build_strategy(strategy, 6)
    error = evaluate(problem(rates(shape, scale), rule=rule), plan).w2 ** 2

    def integrand(log_rate: float) -> float:
        rate = math.exp(log_rate)
        flow = evaluate(problem(GradientFlow(rate / 2), rule=rule), plan)
        return float(flow.w2**2 * gamma.pdf(rate, shape, scale=scale) * rate)

    integral, _ = quad(integrand, -30, 5, epsrel=1e-4)
    assert error == pytest.approx(integral, rel=0.01)


@pytest.mark.parametrize("shape", [0.2, 0.7, 3.0])
def test_sixteen_modes_are_as_good_as_many(shape: float) -> None:
    for name in ("vanilla", "boot", "consistency", "progressive"):
        few, many = (
            evaluate(problem(rates(shape, 30, num_modes=count)), build_strategy(name, 6)).w2
            for count in (16, 256)
        )
        assert few == pytest.approx(many, rel=0.01)


def test_one_rate_is_gradient_flow() -> None:
    """a → ∞ at 2 s = a θ: the rates' relative spread is 1/√a = 1e-3, and enters squared."""
    time = 0.8
    spread = problem(rates(1e6, 2 * time / 1e6))
    flow = problem(GradientFlow(time))
    for plan in (build_strategy("boot", 6), build_strategy("progressive", 6)):
        assert evaluate(spread, plan).errors == pytest.approx(evaluate(flow, plan).errors, rel=1e-4)


def test_records_have_a_row_an_eigenvalue_whatever_the_modes() -> None:
    spectrum = eigenvalue_spectrum([0.5, 2.0, 0.5], [2, 1, 3])
    spread = Problem(spectrum, cosine_schedule(4), rates(0.7, 5, floor=0.01))
    assert spread.eigenvalues.shape == spread.multiplicities.shape == (32,)
    assert spread.distinct_eigenvalues.tolist() == [2.0, 0.5]
    assert spread.distinct_multiplicities.tolist() == [1, 5]
    assert spread.by_eigenvalue(spread.multiplicities) == pytest.approx([1, 5])
    outcome = evaluate(spread, build_strategy("boot", 4))
    assert outcome.errors.shape == (2,)
    assert outcome.errors.sum() == pytest.approx(outcome.w2**2)
    assert outcome.error_shares().sum() == pytest.approx(1)
    flow = replace(spread, training=GradientFlow())
    assert spread.teacher_errors == pytest.approx(flow.teacher_errors)
    record = plan_record(spread, find_plan(spread), {"boot": outcome})
    rows = [record["spectrum"]["eigenvalues"], record["best"]["errors"]]
    rows += [record["strategies"][0]["errors"], record["teacher"]["errors"]]
    assert [len(row) for row in rows] == [2, 2, 2, 2]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("students", [1, 2])
def test_certified_bounds_hold_for_all_plans(exponent: float, students: int) -> None:
    """Eigenvalues on both sides of 1 and between 1 and λ*; 197 trees at T = 6."""
    spread = problem(rates(0.7, 3, exponent))
    best = brute_force_plan(spread, students)
    found = certified_plan(spread, students)
    assert found.lower_bound <= best.w2 * (1 + 1e-9)
    assert found.w2 == pytest.approx(best.w2, rel=1e-9)


@pytest.mark.parametrize("planner", ["auto", "interval", "pareto"])
def test_other_planners_bound_all_plans(planner: str) -> None:
    spread = problem(rates(0.7, 3), steps=5, rule="denoiser-copy")
    least = min(evaluate(spread, plan).w2 for plan in all_plans(5))
    found = find_plan(spread, planner)
    assert found.lower_bound <= least * (1 + 1e-9)
    assert found.w2 >= least * (1 - 1e-9)


def test_many_eigenvalues_are_made_coarser_before_modes_are() -> None:
    """Multiplicities stay whole numbers, which a spectrum requires."""
    spectrum = eigenvalue_spectrum(np.geomspace(1e-3, 3, 300))
    result = certified_plan(
        Problem(spectrum, cosine_schedule(5), rates(0.7, 3, num_modes=4), "operator-copy")
    )
    assert result.gap < 1e-9


def boot_floor(outcome: Outcome, size: float) -> float:
    """The variance of independent errors of x̂, carried from merge to merge, by recursion."""
    schedule, teacher = outcome.problem.schedule, outcome.problem.teacher
    steps = np.exp(teacher.log_steps)
    alphas, sigmas = schedule.alphas, schedule.sigmas
    last = schedule.num_steps
    variance = np.zeros_like(outcome.problem.eigenvalues)
    for stop in range(last - 2, -1, -1):
        weight = alphas[stop] - alphas[last] * sigmas[stop] / sigmas[last]
        carried = steps[stop + 1] ** 2 * variance if stop < last - 2 else 0.0
        variance = carried + size * weight**2
    return float(outcome.problem.multiplicities @ variance)


def test_the_floor_is_what_independent_errors_add_up_to() -> None:
    outcome = evaluate(problem(rates(0.7, 3, floor=0.02)), build_strategy("boot", 6))
    assert outcome.floor**2 == pytest.approx(boot_floor(outcome, 0.02), rel=1e-9)
    total = outcome.w2**2 + outcome.floor**2
    assert outcome.predicted_error**2 == pytest.approx(total)
    vanilla = evaluate(outcome.problem, build_strategy("vanilla", 6))
    assert vanilla.floor**2 == pytest.approx(0.02 * len(EIGENVALUES))  # one merge, c = 1
    without = evaluate(problem(rates(0.7, 3)), outcome.plan)
    assert without.floor == 0
    assert without.predicted_error == without.w2 == pytest.approx(outcome.w2)
    steps = build_strategy("boot", 6, 6)
    assert evaluate(outcome.problem, steps).floor == 0  # nothing is trained


def test_the_paired_error_is_to_the_teacher_whatever_the_objective() -> None:
    """Of the same plan: the objective changes what W2 is to, not how far student and teacher go."""
    for training in (rates(0.7, 3, floor=0.02), GradientFlow(0.5)):
        beside_teacher = problem(training)
        plan = build_strategy("boot", 6)
        outcome = evaluate(replace(beside_teacher, objective="data"), plan)
        expected = evaluate(beside_teacher, plan)
        assert outcome.predicted_error == pytest.approx(expected.predicted_error, rel=1e-12)
        assert outcome.w2 != pytest.approx(expected.w2, rel=0.01)


def test_records_tell_the_paired_error_where_it_is_not_w2() -> None:
    spread = problem(rates(0.7, 3, floor=0.02))
    outcomes = {name: evaluate(spread, build_strategy(name, 6)) for name in ("boot", "vanilla")}
    record = plan_record(spread, find_plan(spread), outcomes)
    for entry in record["strategies"]:
        outcome = outcomes[entry["name"]]
        assert entry["w2"] == outcome.w2
        assert entry["paired_rms"] ** 2 == pytest.approx(outcome.w2**2 + outcome.floor**2)
    printed = summary(record)
    assert printed["best"]["paired_rms"] == record["best"]["paired_rms"] > printed["best"]["w2"]
    assert [entry["paired_rms"] for entry in printed["strategies"]] == [
        entry["paired_rms"] for entry in record["strategies"]
    ]
    kept = evaluate(spread, build_strategy("boot", 6, 6))  # nothing is merged, nothing added
    assert prediction(kept) == {"w2": 0}
    bare = problem(GradientFlow())
    assert "paired_rms" not in json.dumps(plan_record(bare, find_plan(bare), {}))


def test_scalar_says_that_modes_are_what_it_does_not_cover() -> None:
    spread = Problem(eigenvalue_spectrum([0.5]), cosine_schedule(4), rates(0.7, 3))
    with pytest.raises(InputError) as error:
        find_plan(spread, "scalar")
    assert str(error.value) == (
        "`planner` scalar covers training models of a single mode only, got gamma-rates with 16 "
        'modes; use `planner="auto"`'
    )
    assert find_plan(spread).gap < 1e-9
    with pytest.raises(InputError, match="a single distinct eigenvalue only, got 5"):
        find_plan(problem(rates(0.7, 3)), "scalar")


def test_the_plan_says_that_it_leaves_the_floor_out() -> None:
    spread = problem(rates(0.7, 3, floor=0.02))
    result = find_plan(spread)
    (note,) = plan_record(spread, result, {})["best"]["notes"][len(result.notes) :]
    assert f"{result.outcome.floor:.3g}" in note
    assert f"{result.outcome.predicted_error:.3g}" in note
    bare = problem(rates(0.7, 3))
    found = find_plan(bare)
    assert plan_record(bare, found, {})["best"]["notes"] == list(found.notes)


def plan_file(training: TrainingModel, **more: Any) -> PlanFile:
    plan = build_strategy("boot", 3)
    predicted = {"w2": 1.0, "lower_bound": 0.5, "gap": 0.5}
    identity = eigenvalue_spectrum(EIGENVALUES).identity()
    rule: MergeRule = "denoiser-copy"
    return PlanFile(
        plan, cosine_schedule(3), training, rule, "teacher", predicted, identity, **more
    )


def test_plan_files_keep_the_model() -> None:
    model = GammaRates(0.7, 25.5, 1.1, 100, 5e-4, 400, 1e-3, 0.9, 2e-5, 8)
    assert PlanFile.loads(plan_file(model).dumps()).training == model


BAD = [
    ({"shape": 0}, "`shape` must be from 0.001 to 1e+06, got 0"),
    ({"scale": -1}, "`scale` must be finite and > 0, got -1"),
    ({"exponent": "1"}, "`exponent` must be a finite number, got '1'"),
    ({"num_iterations": 0}, "`num_iterations` must be >= 1, got 0"),
    ({"num_iterations": 2.5}, "`num_iterations` must be a whole number, got 2.5"),
    ({"learning_rate": math.inf}, "`learning_rate` must be finite and > 0, got inf"),
    ({"floor": -1e-9}, "`floor` must be from 0 to 1e+100, got -1e-09"),
    ({"num_modes": 3}, "`num_modes` must be from 4 to 256, got 3"),
    ({"scale": 1e300}, "`scale` must give rates from 1e-100 to 1e100, got 1e+300"),
    ({"width": 1}, "`training` must have the parameters shape, scale, exponent, num_iterations"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        training_from_dict({**rates(0.7, 25).to_dict(), **changes})
    assert str(error.value).startswith(message)


def test_iterations_of_a_plan_file() -> None:
    """One a merge, two merges: sequential BOOT of three steps."""
    file = plan_file(GradientFlow(), iterations=(100, 300))
    assert PlanFile.loads(file.dumps()).iterations == (100, 300)
    assert "iterations" not in plan_file(GradientFlow()).dumps()
    assert PlanFile.loads(plan_file(GradientFlow()).dumps()).iterations is None


@pytest.mark.parametrize(
    ("iterations", "message"),
    [
        ("[100]", "`plan file: iterations` must be 2 whole numbers, one a merge, got [100]"),
        ("400", "`plan file: iterations` must be 2 whole numbers, one a merge, got 400"),
        ("null", "`plan file: iterations` must be 2 whole numbers, one a merge, got None"),
        ("[100, 0]", "`plan file: iterations[2]` must be >= 1, got 0"),
        ("[true, 1]", "`plan file: iterations[1]` must be a whole number, got True"),
    ],
)
def test_wrong_iterations_are_refused(iterations: str, message: str) -> None:
    text = plan_file(GradientFlow()).dumps().rstrip().removesuffix("}")
    with pytest.raises(InputError) as error:
        PlanFile.loads(f'{text}, "iterations": {iterations}}}')
    assert str(error.value) == message


def test_as_many_iterations_as_merges() -> None:
    with pytest.raises(InputError, match="must be 2 whole numbers, one a merge"):
        plan_file(GradientFlow(), iterations=(100,))
