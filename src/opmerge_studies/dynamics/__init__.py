"""Theory against training: linear students really trained, step by step through whole plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientDescent, GradientFlow
from opmerge_studies.dynamics.effective_time import RESOLVED, fit_times
from opmerge_studies.dynamics.sgd_noise import operator_noise, retention_noise
from opmerge_studies.shared.batches import expected_square, independent_cumulant
from opmerge_studies.shared.runner import Cell, Runner
from opmerge_studies.shared.simulation import (
    Adam,
    Descent,
    FlowSolver,
    Optimiser,
    TrainedPlan,
    train_dense,
    train_plan,
)

__all__ = ["STRATEGIES", "Config", "run"]

STRATEGIES = ("vanilla", "progressive", "consistency", "boot")

# columns that are empty where theory predicts nothing, or nothing happens by chance
_END = ("closed_form", "difference", "deviation", "noise", "closed_form_sgd")
_MERGE = ("closed_form", "difference", "deviation")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: numbers of steps T, ascending.
        eigenvalues: λ, ascending, one coordinate each.
        learning_rate: η of descent and SGD.
        num_iterations: N of each merge; the closed form has s = η N.
        batch_sizes: of SGD.
        num_runs: independent runs of SGD.
        adam_rates: learning rates of Adam, each full-batch and on minibatches.
        adam_batch_size: of the latter.
        adam_runs: of the latter.
        step_sizes: η of descent for time s = 1, where flow is an approximation; 1/η is whole.
        dense_batch_sizes: of SGD on a full matrix.
        dense_rate: its η, for time s = 1; 1/η is whole.
        seed: of all samples.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: tuple[int, ...] = (8, 16)
    eigenvalues: tuple[float, ...] = (0.05, 0.2, 0.5, 1.02, 2.0, 5.0)
    learning_rate: float = 0.01
    num_iterations: tuple[int, ...] = (100, 640)
    batch_sizes: tuple[int, ...] = (16, 64, 256)
    num_runs: int = 400
    adam_rates: tuple[float, ...] = (0.001, 0.003, 0.01)
    adam_batch_size: int = 64
    adam_runs: int = 20
    step_sizes: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
    dense_batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    dense_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "eigenvalues", "num_iterations", "batch_sizes", "adam_rates"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        self._check_counts("steps", self.steps, 3)
        self._check_counts("num_runs", (self.num_runs,), 2)
        self._check_counts("adam_runs", (self.adam_runs,), 2)
        self._check_counts("adam_batch_size", (self.adam_batch_size,), 1)
        for key in ("num_iterations", "batch_sizes", "dense_batch_sizes"):
            self._check_counts(key, getattr(self, key), 1)
        self._check_numbers("eigenvalues", self.eigenvalues, 1e-3, 100.0)
        self._check_numbers("adam_rates", self.adam_rates, 1e-9, 1.0)
        stable = 0.499 / max(1.0, *self.eigenvalues)  # below 1 / (2 max n_t)
        self._check_numbers("learning_rate", (self.learning_rate,), 1e-9, stable)
        for key, rates in (("step_sizes", self.step_sizes), ("dense_rate", (self.dense_rate,))):
            self._check_numbers(key, rates, 1e-9, stable)
            for rate in rates:
                if abs(1.0 / rate - round(1.0 / rate)) > 1e-9:
                    raise InputError(key, "must be 1 over a whole number", rate)

    @staticmethod
    def _check_counts(key: str, values: Sequence[int], least: int) -> None:
        for value in values:
            if check_count(key, value) < least:
                raise InputError(key, f"must be >= {least}", value)

    @staticmethod
    def _check_numbers(key: str, values: Sequence[float], low: float, high: float) -> None:
        for value in values:
            if not low <= check_number(key, value) <= high:
                raise InputError(key, f"must be from {low:g} to {high:g}", value)

    @classmethod
    def quick(cls) -> Config:
        """T = 8, one batch size, few runs: seconds."""
        return cls(
            steps=(8,),
            num_iterations=(100, 640),
            batch_sizes=(64,),
            num_runs=200,
            adam_rates=(0.001, 0.01),
            dense_batch_sizes=(4, 16, 64, 256),
        )


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Train every plan with every optimiser, and set the results beside the closed form.

    Returns:
        ``tables``: ``ends`` (whole students), ``merges`` (each merge), ``fits`` (the s that suits
        an optimiser best), ``step_sizes`` (flow against descent), ``dense`` (full matrices).
    """
    trained = runner.sweep(train_cell, _training_cells(config), "training plans")
    stepped = runner.sweep(
        step_size_cell,
        [
            {"num_steps": max(config.steps), "learning_rate": rate, "eigenvalues": _values(config)}
            for rate in config.step_sizes
        ],
        "enlarging steps",
    )
    dense = runner.sweep(
        dense_cell,
        [
            {
                "num_steps": max(config.steps),
                "learning_rate": config.dense_rate,
                "batch_size": batch_size,
                "num_runs": config.num_runs,
                "eigenvalues": _values(config),
                "seed": config.seed,
            }
            for batch_size in config.dense_batch_sizes
        ],
        "training matrices",
    )
    ends = [row for cell in trained for row in cell["ends"]]
    merges = [row for cell in trained for row in cell["merges"]]
    return {
        "tables": {
            "fits": fit_times(ends, merges),
            "ends": ends,
            "merges": merges,
            "step_sizes": [row for rows in stepped for row in rows],
            "dense": dense,
        }
    }


def _training_cells(config: Config) -> list[Cell]:
    sgd = [(batch, config.num_runs) for batch in config.batch_sizes]
    adam = [(None, 1), (config.adam_batch_size, config.adam_runs)]
    ways = [
        ("flow", config.learning_rate, None, 1),
        ("descent", config.learning_rate, None, 1),
        *(("sgd", config.learning_rate, batch, runs) for batch, runs in sgd),
        *(("adam", rate, batch, runs) for rate in config.adam_rates for batch, runs in adam),
    ]
    return [
        {
            "num_steps": num_steps,
            "strategy": strategy,
            "optimiser": optimiser,
            "learning_rate": rate,
            "num_iterations": iterations,
            "batch_size": batch,
            "num_runs": runs,
            "eigenvalues": _values(config),
            "seed": config.seed,
        }
        for num_steps in config.steps
        for strategy in STRATEGIES
        for iterations in config.num_iterations
        for optimiser, rate, batch, runs in ways
    ]


def _values(config: Config) -> list[float]:
    return list(config.eigenvalues)


def train_cell(
    num_steps: int,
    strategy: str,
    optimiser: str,
    learning_rate: float,
    num_iterations: int,
    batch_size: int | None,
    num_runs: int,
    eigenvalues: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """One plan trained by one optimiser: the whole student and each merge, by λ."""
    training = _closed_form(optimiser, learning_rate, num_iterations)
    problem = _problem(num_steps, eigenvalues, training)
    plan = build_strategy(strategy, num_steps)
    way = _optimiser(optimiser, learning_rate, num_iterations, batch_size)
    # different cells, different samples
    entropy = [seed, num_steps, STRATEGIES.index(strategy), num_iterations, batch_size or 0]
    trained = train_plan(problem, plan, way, num_runs, entropy)
    setting = {
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "num_iterations": num_iterations,
        "num_steps": num_steps,
        "strategy": strategy,
    }
    noise = batch_size if optimiser == "sgd" else None
    ends = _end_columns(problem, strategy, trained, noise, optimiser != "adam")
    merges = _merge_columns(problem, strategy, trained, noise, optimiser != "adam")
    return {
        "ends": [{**setting, **dict.fromkeys(_END), **row} for row in _rows(ends)],
        "merges": [{**setting, **dict.fromkeys(_MERGE), **row} for row in _rows(merges)],
    }


def _closed_form(
    optimiser: str, learning_rate: float, num_iterations: int
) -> GradientFlow | GradientDescent:
    """What theory has for the optimiser; for Adam it has nothing, and this stands in."""
    if optimiser in ("descent", "sgd"):
        return GradientDescent(learning_rate, num_iterations)
    return GradientFlow(learning_rate * num_iterations)


def _optimiser(
    name: str, learning_rate: float, num_iterations: int, batch_size: int | None
) -> Optimiser:
    if name == "flow":
        return FlowSolver(learning_rate * num_iterations)
    kind = Adam if name == "adam" else Descent
    return kind(learning_rate, num_iterations, batch_size)


def _problem(
    num_steps: int, eigenvalues: Sequence[float], training: GradientFlow | GradientDescent
) -> Problem:
    return Problem(eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps), training)


def _end_columns(
    problem: Problem, strategy: str, trained: TrainedPlan, batch_size: int | None, known: bool
) -> dict[str, Any]:
    """Of the whole student, relative to the teacher's composite; (d,) each.

    ``error`` is the root mean square over runs of b/P - 1, ``closed_form`` its prediction,
    ``difference`` how far b is off its prediction, ``deviation`` the same of the runs' mean in
    its standard errors, ``noise`` the standard deviation over runs as a fraction of theory's.
    """
    plan = build_strategy(strategy, problem.num_steps)
    ratio = trained.operators * np.exp(-problem.teacher.log_products[0])
    columns: dict[str, Any] = {
        "eigenvalue": problem.eigenvalues,
        "error": np.sqrt(np.mean((ratio - 1.0) ** 2, axis=0)),
    }
    if not known:
        return columns
    excess = evaluate(problem, plan).excess
    columns["closed_form"] = np.abs(np.expm1(excess))
    columns["difference"] = np.abs(ratio.mean(axis=0) * np.exp(-excess) - 1.0)
    if batch_size is None:
        return columns
    spread = np.exp(excess) * np.sqrt(operator_noise(problem, plan, batch_size))
    mean_error = spread / np.sqrt(len(ratio))
    columns["deviation"] = (ratio.mean(axis=0) - np.exp(excess)) / mean_error
    columns["noise"] = ratio.std(axis=0, ddof=1) / spread
    columns["closed_form_sgd"] = np.hypot(np.expm1(excess), spread)
    return columns


def _merge_columns(
    problem: Problem, strategy: str, trained: TrainedPlan, batch_size: int | None, known: bool
) -> dict[str, Any]:
    """Of each merge and λ whose remaining error stands clear of rounding, one after another."""
    starts = [merge.start for merge in build_strategy(strategy, problem.num_steps).merges]
    variances = problem.teacher.variances[starts]
    left = np.abs(trained.result - trained.target).max(axis=1)
    scale = np.abs(trained.target).max(axis=1)
    clear = left > RESOLVED * scale
    retention = trained.retentions.mean(axis=1)
    columns = {
        "start": np.broadcast_to(np.array(starts)[:, None], clear.shape)[clear],
        "eigenvalue": np.broadcast_to(problem.eigenvalues, clear.shape)[clear],
        "variance": variances[clear],
        "retention": retention[clear],
    }
    if known:
        predicted = problem.training.retention(variances)
        closed = trained.target + predicted[:, None] * (trained.initial - trained.target)
        difference = np.abs(trained.result - closed).mean(axis=1) / scale
        columns["closed_form"] = predicted[clear]
        columns["difference"] = difference[clear]
        if batch_size is not None:
            assert isinstance(problem.training, GradientDescent)
            noise = retention_noise(problem.training, variances, batch_size)
            error = predicted * np.sqrt(noise / trained.result.shape[1])
            columns["deviation"] = ((retention - predicted) / error)[clear]
    return columns


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    lists = [np.asarray(values).tolist() for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def step_size_cell(
    num_steps: int, learning_rate: float, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """Descent with steps of this size for time s = 1, against the closed form of flow."""
    problem = _problem(num_steps, eigenvalues, GradientFlow(1.0))
    way = Descent(learning_rate, round(1.0 / learning_rate))
    rows = []
    for strategy in STRATEGIES:
        plan = build_strategy(strategy, num_steps)
        ratio = train_plan(problem, plan, way).operators[0]
        ratio = ratio * np.exp(-problem.teacher.log_products[0])
        flow = np.expm1(evaluate(problem, plan).excess)
        columns = {
            "eigenvalue": problem.eigenvalues,
            "error": np.abs(ratio - 1.0),
            "flow": np.abs(flow),
            "difference": np.abs((ratio - 1.0) / flow - 1.0),
        }
        setting = {"learning_rate": learning_rate, "num_steps": num_steps, "strategy": strategy}
        rows += [{**setting, **row} for row in _rows(columns)]
    return rows


def dense_cell(
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    num_runs: int,
    eigenvalues: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """One merge, T/2 → 0, as a full matrix in a random basis: root mean square error of output.

    Relative to what the closed form leaves: ``measured``, ``theory`` (its exact second moment)
    and ``diagonal`` (the same of one weight a coordinate).
    """
    training = GradientDescent(learning_rate, round(1.0 / learning_rate))
    problem = _problem(num_steps, eigenvalues, training)
    start = num_steps // 2
    variances = problem.teacher.variances[start]
    begun = np.exp(problem.teacher.log_steps[start])
    target = np.exp(problem.teacher.log_composite(0, start))
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal(2 * begun.shape))[0]
    weights = train_dense(
        basis * begun @ basis.T,
        basis * target @ basis.T,
        basis * variances @ basis.T,
        Descent(learning_rate, training.num_iterations, batch_size),
        num_runs,
        seed + 1,
    )
    errors = basis.T @ weights @ basis - np.diag(target)
    squares = np.sum(errors**2, axis=1) @ variances
    retained = (begun - target) * training.retention(variances)
    noise = retention_noise(training, variances, batch_size)
    closed = float(retained**2 @ variances)
    gaussian = independent_cumulant(np.eye(len(variances)), variances, 0.0)
    square = expected_square(
        np.diag(variances), gaussian, learning_rate, training.num_iterations, batch_size
    )
    theory = float((begun - target) ** 2 @ np.diag(square))
    return {
        "batch_size": batch_size,
        "measured": float(np.sqrt(squares.mean() / closed)),
        "theory": float(np.sqrt(theory / closed)),
        "diagonal": float(np.sqrt((retained**2 * (1.0 + noise)) @ variances / closed)),
        "deviation": float((squares.mean() - theory) / (squares.std(ddof=1) / np.sqrt(num_runs))),
    }
