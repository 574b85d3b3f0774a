"""What a record says, in sentences: the answer, and the titles of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opmerge.arrays import Array
from opmerge.plans.drawing import recorded_plan
from opmerge.plans.outline import plan_phrase

Record = Mapping[str, Any]

_ROUNDING = 1e-12  # a relative gap that differs from machine to machine
_CLOSED = 1e-9  # one that is rounding for every purpose
_SMALL = 0.01
_LONGEST_NAME = 16
_DOMINANT = 10.0  # per cent of the error from which a merge deserves to be named


def number(value: float) -> str:
    """Three significant digits, plain from 1e-4 to 1e6: ``6.81e-06``, ``0.396``, ``12,700``."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 100 <= abs(rounded) <= 1e6 else f"{value:.3g}"


def percent(fraction: float) -> str:
    """Two significant digits: ``15 %``, ``0.0069 %``; ``0 %`` for what is rounding."""
    value = 100 * fraction if abs(fraction) > _ROUNDING else 0.0
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def times(ratio: float) -> str:
    """A ratio above 1 in words: ``2.4 times``, ``12,700 times``, ``1e+09 times``."""
    if ratio < 10:
        return f"{ratio:.2g} times"
    return f"{float(f'{ratio:.3g}'):,.0f} times" if ratio < 1e6 else f"{ratio:.1g} times"


def short_name(source: str) -> str:
    """A source as a legend can hold it: the last part of a path, at most 16 letters."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def target(record: Record) -> str:
    """What the student's output is compared with."""
    return "the data" if record["problem"]["objective"] == "data" else "the teacher"


def merge_rule(record: Record) -> str:
    """Where students start, in words: ``denoiser copy``."""
    return str(record["problem"]["merge_rule"]).replace("-", " ")


def best_named(record: Record) -> Mapping[str, Any] | None:
    """The named strategy with the smallest W2, where any was compared."""
    return min(record["strategies"], key=lambda strategy: float(strategy["w2"]), default=None)


def costs_told(record: Record) -> str:
    """What a table of the plans must say of their costs, after what it shows; may be empty."""
    best = record["best"]
    told = ""
    if any(not _costs_alike(best, entry) for entry in record["strategies"]):
        told = ", all merges trained alike at unequal cost"
    if all("w2_at_equal_cost" in entry for entry in (best, *record["strategies"])):
        total = f"{best['network_evaluations']:g} network evaluations"
        told += f"; W2 at equal cost: best split of {total} each"
    return told


def _costs_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["network_evaluations"] == other["network_evaluations"])


def summary_sentence(record: Record) -> str:
    """The answer: what to do, what is proved, what it gains, and what gains more at equal cost."""
    if "budget" in record:
        return budget_sentence(record)
    best = record["best"]
    plan = recorded_plan(best)
    comparison = _comparison(record)
    gain = f"; {comparison}" if comparison else ""
    error = f"W2 to {target(record)} {number(best['w2'])}"
    premise = "for Gaussian data, a linear denoiser and equal training per merge"
    where = f"under {merge_rule(record)}"
    if record["problem"].get("student_steps", 1) > 1:
        where += ", where jumps of any length cost nothing"
    told = f"{plan_phrase(plan)}: {premise}, {where}, {error}, {_proof(best)}{gain}."
    return f"{told} {_better_at_equal_cost(record)}".rstrip()


def budget_sentence(record: Record) -> str:
    """What to spend a budget on, and what is expected of it: a forecast, no proof."""
    best, budget = record["best"], record["budget"]
    phrase = plan_phrase(recorded_plan(best))
    return (
        f"Spend {amount(budget['evaluations'])} network evaluations like this: "
        f"{phrase[0].lower()}{phrase[1:]}, {iteration_range(best['iterations'])}; "
        f"expected error {forecast_phrase(record, best)}."
    )


def amount(evaluations: float) -> str:
    """``2,000,000``, ``3.1 billion``."""
    return f"{evaluations / 1e9:.3g} billion" if evaluations >= 1e9 else f"{evaluations:,.0f}"


def iteration_range(iterations: Sequence[int]) -> str:
    """``with 7 to 2,444 iterations a merge``."""
    if not iterations:
        return "with nothing to train"
    least, most = min(iterations), max(iterations)
    told = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    plural = "s" * (most > 1)
    return f"with {told} iteration{plural}" + (" a merge" if len(iterations) > 1 else "")


def forecast_phrase(record: Record, entry: Mapping[str, Any]) -> str:
    """``0.577 (0.213 to 1.32), 18 % of the teacher's spread``: an error, and its 90 % interval."""
    error, spread = entry["paired_rms"], record["budget"]["output_spread"]
    interval = f"{number(entry['low'])} to {number(entry['high'])}"
    return f"{number(error)} ({interval}), {percent(error / spread)} of the teacher's spread"


def unknown_phrase(changes: Sequence[str]) -> str:
    """What a forecast does not know, to stand behind one; empty where that is nothing."""
    return f" (a forecast that knows nothing of {' and '.join(changes)})" if changes else ""


def compared(record: Record) -> list[tuple[str, Mapping[str, Any]]]:
    """The plan, that with the least forecast and the strategies, by name, the least error first."""
    best, least = record["best"], record["least"]
    named = [(each["name"], each) for each in record["strategies"]]
    entries = [("this plan", best), *((n, e) for n, e in named if _merges(e) != _merges(best))]
    if least["paired_rms"] < best["paired_rms"]:
        entries.append(("least forecast", least))
    if record["equal"] is not None:
        entries.append(("progressive, equal", record["equal"]))
    return sorted(entries, key=lambda entry: float(entry[1]["paired_rms"]))


def tie_sentence(record: Record) -> str:
    """Why the proposed plan is not the one with the least forecast; empty where it is."""
    best, least = record["best"], record["least"]
    if best["paired_rms"] == least["paired_rms"]:
        return ""
    count = len(least["iterations"])
    ratio = f"{number(best['paired_rms'] / least['paired_rms'])} times"
    interval = f"{number(best['ratio_low'])} to {number(best['ratio_high'])}"
    told = f"that of this simpler plan is {ratio} as large ({interval})"
    why = "which the law of merges cannot tell from 1"
    if best["ratio_low"] > 1:
        why = "but the law of merges cannot tell it from the plan of fewest merges of those alike"
    return (
        f"The least error is forecast of {_named(least['name'])} with {count} merges "
        f"({number(least['paired_rms'])}); {told}, {why}."
    )


def _named(name: str) -> str:
    return "a plan found by search" if name == "search" else name


def _proof(best: Mapping[str, Any]) -> str:
    proof = _proved(best)
    if "cut_short_after" in best:
        proof += f", as far as a search of {number(best['cut_short_after'])} s came"
    return proof


def _proved(best: Mapping[str, Any]) -> str:
    gap, bound = best["gap"], best["lower_bound"]
    if gap <= _ROUNDING:
        return "proved the best of all plans"
    if gap <= _CLOSED:
        return f"proved within {gap:.0e} of the best of all plans"
    if bound == 0:
        return "with no proof of how much better another plan could be"
    if gap < _SMALL:
        return f"and no plan can be better by more than {percent(gap)}"
    return f"and no plan can be better than {number(bound)} ({percent(gap)} less)"


def _comparison(record: Record) -> str:
    best, named = record["best"], best_named(record)
    if named is None or not best["merges"]:
        return ""
    ratio, students = named["ratio_to_best"], record["problem"].get("student_steps", 1)
    name = named["name"] if students == 1 else f"{named['name']} in {students} equal windows"
    cost = _relative_cost(named, best)
    if ratio is not None and ratio < 1 - _CLOSED:
        told = f" ({cost})" if cost else ""
        return f"the named strategy {name}{told} is better by {percent(1 - ratio)}"
    for strategy in record["strategies"]:
        if _merges(strategy) == _merges(best):
            return f"this is the plan of {strategy['name']}"
    named_best = f"the best named strategy ({name}{', ' if cost else ''}{cost})"
    if ratio is None or ratio <= 1 + _CLOSED:
        return f"{named_best} is as good"
    if ratio < 1 + 10 * _SMALL:
        return f"{named_best} is worse by {percent(ratio - 1)}"
    return f"{times(ratio)} better than {named_best}"


def _relative_cost(named: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """How many times as much a strategy costs as the plan; empty where they cost the same."""
    if _costs_alike(named, best):
        return ""
    return f"{named['network_evaluations'] / best['network_evaluations']:.3g} times the cost"


def _better_at_equal_cost(record: Record) -> str:
    """The strategy that leaves least where all cost the same; empty if this plan does."""
    key = "w2_at_equal_cost"
    own, others = record["best"].get(key), [each for each in record["strategies"] if key in each]
    least = min(others, key=lambda each: float(each[key]), default=None)
    if own is None or least is None or least[key] >= own * (1 - _CLOSED):
        return ""
    return (
        f"At equal total cost, with the best split for each, {least['name']} leaves less: "
        f"{number(least[key])}, this plan {number(own)}."
    )


def _merges(entry: Mapping[str, Any]) -> tuple[list[int], set[tuple[int, ...]]]:
    """What tells plans apart: where students hand over, and which merges there are."""
    return list(entry["boundaries"]), {tuple(merge["boundaries"]) for merge in entry["merge_list"]}


def spectrum_title(eigenvalues: Array, multiplicities: Array) -> str:
    """How many directions lie above λ = 1."""
    above = round(float(multiplicities[eigenvalues > 1].sum()))
    count = round(float(multiplicities.sum()))
    largest = f"the largest is {number(float(eigenvalues.max()))}"
    if count == 1:
        return f"The eigenvalue is {'above' if above else 'not above'} 1"
    if above in (0, count):
        return f"{'All' if above else 'None'} of {count} eigenvalues lie above 1; {largest}"
    lie = "lies" if above == 1 else "lie"
    return f"{above} of {count} eigenvalues {lie} above 1; {largest}"


def directions_title(eigenvalues: Array, errors: Array) -> str:
    """The direction in which the best plan errs most."""
    if not (errors > 0).any():
        return "The best plan makes no error in any direction"
    worst = float(eigenvalues[errors.argmax()])
    return f"The best plan errs most in the direction of λ = {number(worst)}"


def plan_title(record: Record) -> str:
    """Which merge makes most of the error."""
    merges = record["best"]["merge_list"]
    if not merges:
        return "Nothing is merged: every step of the teacher is kept"
    largest = max(merges, key=lambda merge: float(merge["share"]))
    start, *_, stop = largest["boundaries"]
    share = percent(largest["share"])
    if len(merges) == 1:
        return f"One merge, {start} → {stop}, makes all of the error"
    if largest["share"] == 0:
        return f"{len(merges)} merges, none of which makes an error"
    if 100 * largest["share"] < _DOMINANT:
        return f"{len(merges)} merges, none with more than {share} of the error"
    return f"{len(merges)} merges; the one that reaches {start} → {stop} makes {share} of the error"


def strategies_title(record: Record) -> str:
    """The best plan against the best named strategy."""
    comparison = _comparison(record)
    if not comparison:
        return "The plan and the bound that no plan can beat"
    if comparison.startswith("this"):
        return f"The plan found {comparison.removeprefix('this ')}"
    return f"The plan is {comparison}" if comparison[0].isdigit() else f"T{comparison[1:]}"


def error_by_step(record: Record) -> Array:
    """(T,) share of the squared error per step T, …, 1, in per cent.

    A merge (j, k_1, …, i) is trained to reproduce what the steps k_1, …, i + 1 add to the
    operator it starts from; its share is spread evenly over these steps.
    """
    steps = record["problem"]["steps"]
    shares = np.zeros(steps)
    for merge in record["best"]["merge_list"]:
        _, split, *_, stop = merge["boundaries"]
        shares[steps - split : steps - stop] += 100 * merge["share"] / (split - stop)
    return shares


def half_of_error(shares: Array) -> tuple[int, int] | None:
    """The shortest range of steps (first, last) that carries half of the error."""
    total = np.concatenate([[0.0], np.cumsum(shares)])
    if total[-1] <= 0:
        return None
    ends = np.searchsorted(total, total[:-1] + (0.5 - _CLOSED) * total[-1])
    fits = np.flatnonzero(ends < len(total))
    begin = int(fits[np.argmin(ends[fits] - fits)])
    steps = len(shares)
    return steps - begin, steps - int(ends[begin]) + 1


def location_title(record: Record) -> str:
    """The shortest range of steps in which half of the error arises."""
    half = half_of_error(error_by_step(record))
    if half is None:
        return "No merge makes an error"
    first, last = half
    steps = f"steps {first} … {last}" if first > last else f"step {first}"
    return f"Half of the squared error arises at {steps} of {record['problem']['steps']}"


def teacher_title(record: Record) -> str:
    """The student's error beside the teacher's own."""
    teacher, student = record["teacher"]["w2_to_data"], record["best"]["w2"]
    if target(record) == "the data":
        return _data_title(teacher, student)
    if student == 0:
        return "The student reproduces the teacher; what error there is, is the teacher's"
    if teacher >= 2 * student:
        return (
            f"The teacher is {times(teacher / student)} further from the data "
            "than the student is from the teacher"
        )
    if student >= 2 * teacher > 0:
        return f"The student's error is {times(student / teacher)} the teacher's own"
    return "The student's error is about as large as the teacher's own"


def _data_title(teacher: float, student: float) -> str:
    if teacher == 0 or abs(student / teacher - 1) < 1e-3:
        return "The student is as far from the data as its teacher"
    closer = "closer to" if student < teacher else "further from"
    difference = percent(abs(student / teacher - 1))
    return f"The student is {closer} the data than its teacher, by {difference}"
