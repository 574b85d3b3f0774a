"""What classifier-free guidance does to the best order of merging, in the linear theory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field
from scipy.optimize import brentq

from opmerge.arrays import Array
from opmerge.data import digits_labels, open_source
from opmerge.guided_teacher import GuidedProblem, Start, contraction_thresholds, evaluate_guided
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.plans.strategies import strategy_family
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import MergeRule, Rising
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import CANONICAL, plan_shape

_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")
_SCAN = np.geomspace(0.05, 200.0, 400)

Share = Annotated[float, Field(gt=0, lt=1)]
Scale = Annotated[float, Field(ge=1)]


class GuidanceSettings(Settings):
    steps: Annotated[int, Field(ge=4, le=8)] = option(7, "T of which all plans are tried")
    strategy_steps: Annotated[int, Field(ge=4)] = option(64, "T of BOOT, vanilla and the digits")
    scales: Rising[Scale] = option((1.0, 2.0, 3.0, 5.0, 7.5), "guidance scales w; 1 is none")
    shares: Rising[Share] = option((0.05, 0.1, 0.3), "of conditions' means in the variance λ")
    num_eigenvalues: Annotated[int, Field(ge=4)] = option(25, "points in λ from 0.05 to 20")
    merge_time: Annotated[float, Field(gt=0, le=100)] = option(DEFAULT_MERGE_TIME, "s")

    @classmethod
    def quick(cls) -> Self:
        return cls(steps=6, scales=(1.0, 3.0, 7.5), shares=(0.1, 0.3), num_eigenvalues=9)

    def eigenvalues(self) -> list[float]:
        """The λ, ascending."""
        values = np.geomspace(0.05, 20.0, self.num_eigenvalues).round(6)
        return [float(value) for value in values]


def run(settings: GuidanceSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``transitions`` (BOOT and vanilla by w and share), ``plans`` (the best of all, at each
    λ) and ``digits`` (strategies on the digits and their classes)."""
    time, fine = {"merge_time": settings.merge_time}, settings.strategy_steps
    cells = partial(grid, scale=settings.scales, **time)
    crossed = runner.sweep(
        transition, cells(num_steps=[fine], share=settings.shares), "finding crossings"
    )
    given = {"num_steps": [settings.steps], "eigenvalues": [settings.eigenvalues()]}
    found = runner.sweep(
        best_plans, cells(merge_rule=_RULES, share=settings.shares, **given), "trying all plans"
    )
    digits = runner.sweep(digits_row, cells(num_steps=[fine], merge_rule=_RULES), "digits")
    plans = [row for cell in found for row in cell["rows"]]
    return {"tables": {"transitions": crossed, "plans": plans, "digits": digits}}


def transition(num_steps: int, share: float, scale: float, merge_time: float) -> dict[str, Any]:
    """The λ from which on vanilla errs less than BOOT under operator copy, and the thresholds."""
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))

    def log_ratio(values: Array) -> Array:
        problem = _problem(values, share, scale, num_steps, merge_time, "operator-copy")
        one, other = (evaluate_guided(problem, plan).errors for plan in (boot, vanilla))
        return np.asarray(np.log(one / other))

    signs = np.sign(log_ratio(_SCAN))
    changes = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    places = [
        brentq(lambda value: log_ratio(np.array([value]))[0], _SCAN[n], _SCAN[n + 1], xtol=1e-9)
        for n in changes
    ]
    noise, data = contraction_thresholds(share, scale)
    return {
        "num_steps": num_steps,
        "share": share,
        "scale": scale,
        "crossing": float(places[0]) if places else None,
        "crossings": len(places),
        "noise_end": float(noise) if np.isfinite(noise) else None,
        "data_end": float(data),
    }


def best_plans(
    num_steps: int,
    merge_rule: MergeRule,
    share: float,
    scale: float,
    merge_time: float,
    eigenvalues: Sequence[float],
) -> dict[str, Any]:
    """``rows``: the best of all plans at each λ, beside strategies and the best unguided."""
    plans = [*all_plans(num_steps)]
    made = partial(
        _problem, share=share, num_steps=num_steps, merge_time=merge_time, merge_rule=merge_rule
    )
    values = np.array(eigenvalues)
    errors = _errors(made(values, scale=scale), plans)
    unguided = _errors(made(values, scale=1.0), plans).argmin(axis=0)
    started = _errors(made(values, scale=scale, start="teacher"), plans).min(axis=0)
    named = {name: errors[plans.index(build_strategy(name, num_steps))] for name in CANONICAL}
    rows = []
    for n, (value, best) in enumerate(zip(eigenvalues, errors.argmin(axis=0), strict=True)):
        plan, error = plans[best], float(errors[best, n])
        around, means = evaluate_guided(made(values[n : n + 1], scale=scale), plan).parts
        of_names = {name: float(own[n]) for name, own in named.items()}
        rows.append(
            {
                "merge_rule": merge_rule,
                "share": share,
                "scale": scale,
                "eigenvalue": value,
                "best": error,
                **of_names,
                "unguided": float(errors[unguided[n], n]),
                "from_teacher": float(started[n]),
                "means": float(means / (around + means)),
                "shape": plan_shape(plan, error, of_names),
                "merges": len(plan.merges),
                "plan": plan_phrase(plan),
            }
        )
    return {"rows": rows}


def digits_row(
    num_steps: int, merge_rule: MergeRule, scale: float, merge_time: float
) -> dict[str, Any]:
    """W2 of named strategies to the guided teacher of the digits, by the diagonal of their classes.

    In the eigenbasis of all digits' covariance, of the covariance of the classes' means only the
    diagonal is taken: ``commuting`` says how much of it that is.
    """
    samples = np.concatenate([*open_source("digits").batches()]).reshape(len(digits_labels()), -1)
    samples = samples - samples.mean(axis=0)
    labels = digits_labels()
    means = np.stack([samples[labels == each].mean(axis=0) for each in range(10)])[labels]
    values, basis = np.linalg.eigh(samples.T @ samples / len(samples))
    of_means = basis.T @ (means.T @ means) @ basis / len(samples)
    kept = values > 1e-6 * values.max()
    between = np.diag(of_means)[kept]
    problem = GuidedProblem(
        cosine_schedule(num_steps),
        values[kept] - between,
        between,
        scale,
        GradientFlow(merge_time),
        merge_rule,
    )
    family = {name: build_strategy(name, num_steps) for name in strategy_family(num_steps)}
    errors = {name: evaluate_guided(problem, plan).w2 for name, plan in family.items()}
    best = min(errors, key=lambda name: errors[name])
    return {
        "merge_rule": merge_rule,
        "scale": scale,
        "best": errors[best],
        "name": best,
        **{name: errors[name] for name in CANONICAL},
        "share": float(between.sum() / values.sum()),
        "commuting": float(np.linalg.norm(np.diag(of_means)) / np.linalg.norm(of_means)),
    }


def _problem(
    eigenvalues: Array,
    share: float,
    scale: float,
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    start: Start = "network",
) -> GuidedProblem:
    variances = (1 - share) * eigenvalues, share * eigenvalues
    training = GradientFlow(merge_time)
    return GuidedProblem(cosine_schedule(num_steps), *variances, scale, training, merge_rule, start)


def _errors(problem: GuidedProblem, plans: Sequence[Plan]) -> Array:
    """(P, d) of plans in each direction, not squared."""
    return np.sqrt(np.stack([evaluate_guided(problem, plan).errors for plan in plans]))


_QUESTION = "What does classifier-free guidance do to the best order, and to the plans?"
STUDY = Study(__name__, _QUESTION, GuidanceSettings, run)
