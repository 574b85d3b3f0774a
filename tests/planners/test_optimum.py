"""What is known about the optimum (THEORY 7), against all trees and on the plain cosine."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DirectTheory, Setting, best_students, trees_of
from strategies import merge_times, nested_trees

from opmerge.merging import evaluate
from opmerge.planners import best_strategy_plan, certified_plan
from opmerge.plans.strategies import boot, build_strategy, vanilla
from opmerge.plans.tree import Plan, Tree
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow

CANONICAL = ("vanilla", "progressive", "consistency", "boot")

TIMES = (0.05, 1.0, 6.4, 30.0)


def problem_of(
    eigenvalues: Any,
    num_steps: int,
    time: float = 6.4,
    merge_rule: MergeRule = "operator-copy",
    multiplicities: Any = None,
) -> Problem:
    spectrum = eigenvalue_spectrum(eigenvalues, multiplicities)
    return Problem(spectrum, cosine_schedule(num_steps), GradientFlow(time), merge_rule)


def threshold(num_steps: int) -> float:
    """λ*(T) = 1 + 1 / cos(π / 2T)."""
    return float(1 + 1 / np.cos(np.pi / (2 * num_steps)))


def relative_excesses(
    eigenvalues: tuple[float, ...], num_steps: int, time: float, merge_rule: MergeRule
) -> tuple[list[Any], Any]:
    """Every tree, and b/P - 1 of each, (n, d), in exact arithmetic."""
    theory = DirectTheory(
        Setting(cosine_schedule(num_steps), eigenvalues, time=time, merge_rule=merge_rule)
    )
    values = theory.all_students(1) / theory.composite(0, num_steps) - 1
    return list(trees_of(num_steps, 0)), values


# 7.2 to 7.4: the phases


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("num_steps", range(2, 8))
def test_boot_is_best_up_to_1(num_steps: int, time: float) -> None:
    eigenvalues = (1.0, 0.999, 0.7, 0.2, 1e-3, 1e-6)
    trees, values = relative_excesses(eigenvalues, num_steps, time, "operator-copy")
    assert (values >= 0).all()
    best = trees.index(boot(num_steps).to_nested())
    assert (values[best] == values.min(axis=0)).all()
    found = evaluate(problem_of(eigenvalues, num_steps, time), Plan((boot(num_steps),)))
    np.testing.assert_allclose(
        np.expm1(found.excess), values[best].astype(float), rtol=1e-11, atol=1e-300
    )


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("num_steps", range(2, 8))
def test_vanilla_is_best_from_the_threshold_on(num_steps: int, time: float) -> None:
    # One rounding above the threshold, which itself is not a number of float64.
    eigenvalues = (1e6, 40.0, 5.0, threshold(num_steps) * (1 + 1e-15))
    trees, values = relative_excesses(eigenvalues, num_steps, time, "operator-copy")
    assert (values <= 0).all()
    best = trees.index(vanilla(num_steps).to_nested())
    assert (values[best] == values.max(axis=0)).all()


@pytest.mark.parametrize("num_steps", [2, 3, 4, 8, 64, 512])
def test_the_threshold_is_where_every_step_grows(num_steps: int) -> None:
    schedule = cosine_schedule(num_steps)
    a, s = schedule.alphas, schedule.sigmas
    general = max(
        s[t] * (s[t] - s[t - 1]) / (a[t] * (a[t - 1] - a[t])) for t in range(1, num_steps)
    )
    # The steps near t = 0 differ by (π/2T)², which costs that much relative precision.
    assert threshold(num_steps) == pytest.approx(general, rel=1e-15 * num_steps**2 + 1e-14)
    below, above = threshold(num_steps) * np.array([1 - 1e-9, 1 + 1e-9])
    steps = problem_of([above, below], num_steps).teacher.log_steps[1:-1]
    assert (steps[:, 0] > 0).all()
    assert (steps[:, 1] < 0).any()


@pytest.mark.parametrize(
    ("num_steps", "eigenvalue", "best"),
    [
        (4, 1.5, [[4, [3, 2]], 1]),
        (4, 2.0, [[4, 3, 2], 1]),
        (5, 1.4, [[[5, [4, 3]], 2], 1]),
        (7, 1.26, [[[[[7, 6], [5, 4]], 3], 2], 1]),
        (7, 1.3, [[[7, [6, [5, [4, 3]]]], 2], 1]),
    ],
)
def test_between_the_phases_the_best_tree_is_none_of_the_canonical(
    num_steps: int, eigenvalue: float, best: Any
) -> None:
    setting = Setting(cosine_schedule(num_steps), (eigenvalue,))
    assert 1 < eigenvalue < threshold(num_steps)
    w2, students = best_students(setting)
    assert students == [best]
    canonical = [
        evaluate(setting.problem(), build_strategy(name, num_steps)).w2 for name in CANONICAL
    ]
    assert w2 < 0.999 * min(canonical)


# 7.5: the crossing of BOOT and vanilla


@pytest.mark.parametrize(
    ("num_steps", "crossing", "digit"),
    [
        (16, 1.140, 1e-3),
        (64, 1.0365, 1e-4),
        (128, 1.0185, 1e-4),
        (256, 1.00936, 1e-5),
        (512, 1.00472, 1e-5),
    ],
)
@pytest.mark.parametrize("time", [1.0, 6.4])
def test_boot_and_vanilla_cross(num_steps: int, crossing: float, digit: float, time: float) -> None:
    """Below the first crossing BOOT wins everywhere; within half a digit of it vanilla does."""
    eigenvalues = np.append(
        1 + (crossing - 1) * np.linspace(0.02, 0.98, 25), crossing + digit * np.array([-0.5, 0.5])
    )
    problem = problem_of(eigenvalues, num_steps, time)
    errors = [evaluate(problem, build_strategy(name, num_steps)).errors for name in CANONICAL]
    boot_wins = errors[3] < errors[0]  # descending eigenvalues
    assert boot_wins.tolist() == [False] + [True] * 26


def test_at_1_02_more_steps_turn_the_winner() -> None:
    for num_steps, winner in [(64, "boot"), (256, "vanilla")]:
        problem = problem_of([1.02], num_steps)
        w2 = {
            name: evaluate(problem, build_strategy(name, num_steps)).w2
            for name in ("boot", "vanilla")
        }
        assert min(w2, key=lambda name: w2[name]) == winner


# 7.6, 7.7: combs


def comb_of(tree: Tree) -> Tree:
    """The comb along a tree's spine: what is merged inside its blocks is left to the teacher."""
    ends = {merge.boundaries[1]: merge.stop for merge in tree.merges if merge.start == tree.start}
    edges = [tree.start - 1]
    while edges[-1] > tree.stop:
        edges.append(ends[edges[-1]])
    return Tree.chain(tree.start, edges)


pure_eigenvalues = (st.floats(-6, 0) | st.floats(0.302, 6)).map(lambda power: float(10.0**power))


@settings(max_examples=150)
@given(st.data())
def test_a_comb_is_at_least_as_good_in_every_coordinate(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(3, 12))
    eigenvalues = data.draw(st.sets(pure_eigenvalues, min_size=1, max_size=6))
    eigenvalues = {value for value in eigenvalues if value <= 1 or value > threshold(num_steps)}
    problem = problem_of([*eigenvalues, 1.0], num_steps, data.draw(merge_times))
    tree = Tree.from_nested(data.draw(nested_trees(num_steps)))
    comb = evaluate(problem, Plan((comb_of(tree),))).excess
    plan = evaluate(problem, Plan((tree,))).excess
    small = problem.eigenvalues <= 1
    # Up to rounding of sums of logarithms.
    slack = 1e-12 * np.abs(plan) + 1e-300
    assert (comb[small] >= -slack[small]).all()
    assert (comb[~small] <= slack[~small]).all()
    assert (np.abs(comb) <= np.abs(plan) + slack).all()


@settings(max_examples=60)
@given(st.data())
def test_the_excess_of_a_comb_is_a_sum_over_blocks(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(2, 40))
    inner = data.draw(st.sets(st.integers(1, num_steps - 1)))
    edges = [num_steps - 1, *sorted(inner - {num_steps - 1}, reverse=True), 0]
    problem = problem_of([40.0, 2.5, 1.5, 1.0, 0.3, 1e-3], num_steps, data.draw(merge_times))
    retention, teacher = problem.retentions[-1], problem.teacher
    blocks = [
        np.log1p(retention * (np.exp(-teacher.log_composite(below, above)) - 1))
        for above, below in pairwise(edges)
    ]
    outcome = evaluate(problem, Plan((Tree.chain(num_steps, edges),)))
    # exp(-log P) - 1 loses digits against expm1: 1e-16 of a retention each.
    np.testing.assert_allclose(outcome.local_excess, blocks, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(outcome.excess, np.sum(blocks, axis=0), rtol=1e-10, atol=1e-13)


# 7.8: mixed spectra


@pytest.mark.parametrize(
    ("num_steps", "large", "small", "count", "least_gain", "blocks"),
    [
        (64, 100.0, 1e-3, 300, 2.17, [54] + [1] * 9),
        (64, 1000.0, 1e-3, 10_000, 2.61, [50] + [1] * 13),
        (64, 40.0, 0.01, 100, 1.72, [48] + [1] * 15),
        (8, 1000.0, 1e-3, 30, 1.58, [6, 1]),
    ],
)
def test_mixed_spectra_want_hybrids(
    num_steps: int, large: float, small: float, count: int, least_gain: float, blocks: list[int]
) -> None:
    """One large eigenvalue against many small ones: 1.5 to 2.6 times better than canonical."""
    problem = problem_of([large, small], num_steps, multiplicities=[1, count])
    result = certified_plan(problem)
    assert result.gap < 1e-9
    assert [merge.num_children - 1 for merge in result.plan.merges] == blocks
    canonical = [evaluate(problem, build_strategy(name, num_steps)).w2 for name in CANONICAL]
    assert min(canonical) / result.w2 == pytest.approx(least_gain, abs=0.01)
    assert evaluate(problem, build_strategy(f"hybrid:{len(blocks) - 1}", num_steps)).w2 == (
        pytest.approx(result.w2, rel=1e-9)
    )


# 7.9: denoiser copy


@pytest.mark.parametrize("time", TIMES)
def test_under_denoiser_copy_boot_is_best_for_every_eigenvalue(time: float) -> None:
    eigenvalues = tuple(np.geomspace(50, 0.05, 13).tolist())
    trees, values = relative_excesses(eigenvalues, 7, time, "denoiser-copy")
    assert len(trees) == 903
    assert (values < 0).all()
    best = trees.index(boot(7).to_nested())
    assert (values[best] == values.max(axis=0)).all()


@pytest.mark.parametrize("time", [1.0, 6.4])
def test_under_denoiser_copy_the_separable_bound_closes(time: float) -> None:
    problem = problem_of(np.geomspace(1e-3, 1e4, 29), 64, time, "denoiser-copy")
    result = best_strategy_plan(problem)
    assert result.plan == build_strategy("boot", 64)
    assert result.gap < 1e-9
    assert (result.outcome.excess <= 0).all()
