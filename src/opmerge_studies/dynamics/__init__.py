"""Theory against training: linear students really trained, step by step through whole plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.settings.base import Settings, option
from opmerge.settings.types import AtLeastTwo, Count, Rising, Some, Whole
from opmerge.training import GradientDescent, GradientFlow
from opmerge_studies.shared import Cell, Runner, Study, batches, grid, rows_of, simulation
from opmerge_studies.shared.strategies import CANONICAL, cosine_problem, scalar_problem

# columns that are empty where theory predicts nothing, or nothing happens by chance
_END = ("closed_form", "difference", "deviation", "noise", "closed_form_sgd")
_MERGE = ("closed_form", "difference", "deviation")
_WAY = ("optimiser", "learning_rate", "batch_size", "num_iterations")
_FIT = (
    *("fitted_time", "r_squared", "exponent", "least_time", "greatest_time", "sign_changes"),
    *("merges", "median_factor", "worst_factor", "best_foretold", "contests"),
)
_LOWEST_RATE = 1e-9
_RESOLVED = 1e-9  # error of a weight, relative to it, above which rounding plays no part
_SHORTEST = 1e-6  # of a fitted time

Row = dict[str, Any]
Steps = Annotated[int, Field(ge=3)]
Rate = Annotated[float, Field(ge=_LOWEST_RATE, le=1)]
Eigenvalue = Annotated[float, Field(ge=1e-3, le=100)]


class DynamicsSettings(Settings):
    steps: Rising[Steps] = option((8, 16), "T")
    eigenvalues: Rising[Eigenvalue] = option(
        (0.05, 0.2, 0.5, 1.02, 2.0, 5.0), "λ, one coordinate each"
    )
    learning_rate: float = option(0.01, "η of descent and SGD")
    num_iterations: Rising[Count] = option(
        (100, 640), "N of each merge; the closed form has s = η N"
    )
    batch_sizes: Rising[Count] = option((16, 64, 256), "B of SGD")
    num_runs: AtLeastTwo = option(400, "independent runs of SGD")
    adam_rates: Rising[Rate] = option(
        (0.001, 0.003, 0.01), "η of Adam, each full-batch and on minibatches"
    )
    adam_batch_size: Count = option(64, "B of Adam")
    adam_runs: AtLeastTwo = option(20, "independent runs of Adam on minibatches")
    step_sizes: Some[float] = option(
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
        "η of descent for time s = 1, where flow is an approximation; 1/η is whole",
    )
    dense_batch_sizes: tuple[Count, ...] = option(
        (2, 4, 8, 16, 32, 64, 128, 256), "B of SGD on a full matrix"
    )
    dense_rate: float = option(0.05, "its η, for time s = 1; 1/η is whole")
    seed: Whole = option(0, "of all samples")

    @model_validator(mode="after")
    def _check(self) -> Self:
        stable = 0.499 / max(1.0, self.eigenvalues[-1])  # below 1 / (2 max n_t)
        whole = [("step_sizes", rate) for rate in self.step_sizes]
        whole.append(("dense_rate", self.dense_rate))
        for key, rate in (("learning_rate", self.learning_rate), *whole):
            if not _LOWEST_RATE <= rate <= stable:
                raise InputError(key, f"must be from {_LOWEST_RATE:g} to {stable:g}", rate)
        for key, rate in whole:
            if abs(1.0 / rate - round(1.0 / rate)) > 1e-9:
                raise InputError(key, "must be 1 over a whole number", rate)
        return self

    @classmethod
    def quick(cls) -> Self:
        return cls(
            steps=(8,),
            batch_sizes=(64,),
            num_runs=200,
            adam_rates=(0.001, 0.01),
            dense_batch_sizes=(4, 16, 64, 256),
        )


def run(settings: DynamicsSettings, runner: Runner) -> dict[str, Any]:
    """Train every plan with every optimiser, and set the results beside the closed form.

    Tables ``ends`` (whole students), ``merges`` (each merge), ``fits`` (the s that suits an
    optimiser best), ``step_sizes`` (flow against descent) and ``dense`` (full matrices).
    """
    largest, rate = settings.steps[-1], settings.dense_rate
    spectrum = {"eigenvalues": [list(settings.eigenvalues)]}
    sampled = {**spectrum, "seed": settings.seed}
    merged = {"num_steps": settings.steps, "strategy": CANONICAL}
    trainings = {"num_iterations": settings.num_iterations, "way": _ways(settings)}
    plans = grid(**merged, **trainings, **sampled)
    descents = [(rate, round(1.0 / rate), batch) for batch in settings.dense_batch_sizes]
    matrices = grid(num_steps=largest, descent=descents, num_runs=settings.num_runs, **sampled)
    sizes = {"learning_rate": settings.step_sizes, "strategy": CANONICAL}
    steps = grid(num_steps=largest, **sizes, **spectrum)
    trained = runner.tables(train_cell, plans, "training plans")
    return {
        "tables": {
            **trained,
            "fits": fit_times(**trained),
            "step_sizes": runner.rows(step_size_cell, steps, "enlarging steps"),
            "dense": runner.sweep(dense_cell, matrices, "training matrices"),
        }
    }


def _ways(settings: DynamicsSettings) -> list[Cell]:
    """All ways of training a merge, each with its number of runs."""
    rate, population = settings.learning_rate, {"batch_size": None, "num_runs": 1}
    sgd = {"batch_size": settings.batch_sizes, "num_runs": settings.num_runs}
    small = {"batch_size": settings.adam_batch_size, "num_runs": settings.adam_runs}
    return [
        *grid(optimiser=("flow", "descent"), learning_rate=rate, **population),
        *grid(optimiser="sgd", learning_rate=rate, **sgd),
        *grid(optimiser="adam", learning_rate=settings.adam_rates, **population),
        *grid(optimiser="adam", learning_rate=settings.adam_rates, **small),
    ]


def train_cell(
    num_steps: int,
    strategy: str,
    num_iterations: int,
    way: Cell,
    eigenvalues: Sequence[float],
    seed: int,
) -> Row:
    """One plan trained by one optimiser: the whole student and each merge, by λ."""
    batch, setting = way["batch_size"], {**way, "num_iterations": num_iterations}
    runs = setting.pop("num_runs")
    optimiser, training = _optimiser(**setting)
    problem = cosine_problem(eigenvalues, num_steps, training)
    plan = build_strategy(strategy, num_steps)
    # different cells, different samples
    entropy = (seed, num_steps, CANONICAL.index(strategy), num_iterations, batch or 0)
    trained = simulation.train_plan(problem, plan, optimiser, runs, entropy)
    ends = _whole_students(problem, plan, trained, way)
    merges = _each_merge(problem, plan, trained, way)
    setting |= {"num_steps": num_steps, "strategy": strategy}
    return {
        "ends": rows_of(ends, **setting, **dict.fromkeys(_END)),
        "merges": rows_of(merges, **setting, **dict.fromkeys(_MERGE)),
    }


def _optimiser(
    optimiser: str, learning_rate: float, batch_size: int | None, num_iterations: int
) -> tuple[simulation.Optimiser, GradientFlow | GradientDescent]:
    """What trains a merge, and theory's model of it; Adam has none, and flow stands in."""
    time, way = learning_rate * num_iterations, (learning_rate, num_iterations, batch_size)
    if optimiser == "flow":
        return simulation.flow_solver(time), GradientFlow(time)
    if optimiser == "adam":
        return simulation.adam(*way), GradientFlow(time)
    return simulation.descent(*way), GradientDescent(learning_rate, num_iterations)


def _whole_students(
    problem: Problem, plan: Plan, trained: simulation.TrainedPlan, way: Cell
) -> Row:
    """Columns of the whole student, relative to the teacher's composite; (d,) each.

    ``error`` is the root mean square over runs of b/P - 1, ``closed_form`` its prediction,
    ``difference`` how far b is off its prediction, ``deviation`` the same of the runs' mean in
    its standard errors, ``noise`` the standard deviation over runs as a fraction of theory's.
    """
    ratio = trained.ratio(problem)
    error = np.sqrt(np.mean((ratio - 1.0) ** 2, axis=0))
    columns: Row = {"eigenvalue": problem.eigenvalues, "error": error}
    if way["optimiser"] == "adam":
        return columns
    excess = evaluate(problem, plan).excess
    columns["closed_form"] = np.abs(np.expm1(excess))
    columns["difference"] = np.abs(ratio.mean(axis=0) * np.exp(-excess) - 1.0)
    if way["optimiser"] == "sgd":
        spread = np.exp(excess) * np.sqrt(batches.operator_noise(problem, plan, way["batch_size"]))
        mean_error = spread / np.sqrt(len(ratio))
        columns["deviation"] = (ratio.mean(axis=0) - np.exp(excess)) / mean_error
        columns["noise"] = ratio.std(axis=0, ddof=1) / spread
        columns["closed_form_sgd"] = np.hypot(np.expm1(excess), spread)
    return columns


def _each_merge(problem: Problem, plan: Plan, trained: simulation.TrainedPlan, way: Cell) -> Row:
    """Columns of each merge and λ whose remaining error stands clear of rounding."""
    starts = np.array([merge.start for merge in plan.merges])
    variances = problem.teacher.variances[starts]
    scale = np.abs(trained.target).max(axis=1)
    clear = np.abs(trained.result - trained.target).max(axis=1) > _RESOLVED * scale
    retention = trained.retentions.mean(axis=1)
    columns = {
        "start": np.broadcast_to(starts[:, None], clear.shape),
        "eigenvalue": np.broadcast_to(problem.eigenvalues, clear.shape),
        "variance": variances,
        "retention": retention,
    }
    if way["optimiser"] != "adam":
        predicted = problem.training.retention(variances)
        closed = trained.target + predicted[:, None] * (trained.initial - trained.target)
        columns["closed_form"] = predicted
        columns["difference"] = np.abs(trained.result - closed).mean(axis=1) / scale
    if isinstance(problem.training, GradientDescent) and way["optimiser"] == "sgd":
        noise = batches.retention_noise(problem.training, variances, way["batch_size"])
        error = predicted * np.sqrt(noise / trained.result.shape[1])
        columns["deviation"] = (retention - predicted) / error
    return {name: values[clear] for name, values in columns.items()}


def step_size_cell(
    num_steps: int, learning_rate: float, strategy: str, eigenvalues: Sequence[float]
) -> list[Row]:
    """Descent with steps of this size for time s = 1, against the closed form of flow."""
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(1.0))
    plan = build_strategy(strategy, num_steps)
    steps = simulation.descent(learning_rate, round(1.0 / learning_rate))
    error = simulation.train_plan(problem, plan, steps).ratio(problem)[0] - 1.0
    flow = np.expm1(evaluate(problem, plan).excess)
    columns = {
        "eigenvalue": problem.eigenvalues,
        "error": np.abs(error),
        "flow": np.abs(flow),
        "difference": np.abs(error / flow - 1.0),
    }
    return rows_of(columns, learning_rate=learning_rate, num_steps=num_steps, strategy=strategy)


def dense_cell(
    num_steps: int,
    descent: tuple[float, int, int],
    num_runs: int,
    eigenvalues: Sequence[float],
    seed: int,
) -> Row:
    """One merge, T/2 → 0, as a full matrix in a random basis: root mean square error of output.

    Relative to what the closed form leaves: ``measured``, ``theory`` (its exact second moment)
    and ``diagonal`` (the same of one weight a coordinate). ``descent`` is η, N and B.
    """
    learning_rate, num_iterations, batch_size = descent
    training = GradientDescent(learning_rate, num_iterations)
    teacher = cosine_problem(eigenvalues, num_steps, training).teacher
    start = num_steps // 2
    variances = teacher.variances[start]
    initial, target = np.exp(teacher.log_steps[start]), np.exp(teacher.log_composite(0, start))
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal(2 * initial.shape))[0]
    begin, end, covariance = (basis * each @ basis.T for each in (initial, target, variances))
    weights = simulation.train_dense(begin, end, covariance, descent, num_runs, seed + 1)
    errors = basis.T @ weights @ basis - np.diag(target)
    squares = np.sum(errors**2, axis=1) @ variances
    retained = (initial - target) * training.retention(variances)
    noise = batches.retention_noise(training, variances, batch_size)
    closed = float(retained**2 @ variances)
    gaussian = batches.independent_cumulant(np.eye(len(variances)), variances, 0.0)
    square = batches.expected_square(np.diag(variances), gaussian, *descent)
    theory = float((initial - target) ** 2 @ np.diag(square))
    return {
        "batch_size": batch_size,
        "measured": float(np.sqrt(squares.mean() / closed)),
        "theory": float(np.sqrt(theory / closed)),
        "diagonal": float(np.sqrt((retained**2 * (1.0 + noise)) @ variances / closed)),
        "deviation": float((squares.mean() - theory) / (squares.std(ddof=1) / np.sqrt(num_runs))),
    }


def fit_times(ends: Sequence[Row], merges: Sequence[Row]) -> list[Row]:
    """The s that suits each way of training best, from whole students and their merges.

    ``fitted_time`` s of -ln|ρ| = 2 s n is by least squares over all merges and λ, with its
    ``r_squared``, ``exponent`` p of -ln|ρ| ∝ n^p (1 in theory), and how well the closed form with
    this s foretells the ends. Empty where all merges ended at rounding.
    """
    ways: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
    for place, rows in enumerate((ends, merges)):
        for row in rows:
            ways.setdefault(tuple(row[key] for key in _WAY), ([], []))[place].append(row)
    return [{**dict(zip(_WAY, way, strict=True)), **_fit(*rows)} for way, rows in ways.items()]


def _fit(ends: list[Row], merges: list[Row]) -> Row:
    if not merges:
        return dict.fromkeys(_FIT) | {"merges": 0}
    retention = np.array([row["retention"] for row in merges])
    doubled = 2.0 * np.array([row["variance"] for row in merges])
    learned = -np.log(np.abs(retention))
    time = float(doubled @ learned / (doubled @ doubled))
    residual = np.sum((learned - time * doubled) ** 2)
    positive = learned > 0
    exponent = np.polyfit(np.log(doubled[positive]), np.log(learned[positive]), 1)[0]
    return {
        "fitted_time": time,
        "r_squared": float(1.0 - residual / np.sum((learned - learned.mean()) ** 2)),
        "exponent": float(exponent),
        "least_time": float((learned / doubled).min()),
        "greatest_time": float((learned / doubled).max()),
        "sign_changes": float(np.mean(retention < 0)),
        "merges": len(merges),
        **_prediction(ends, time),
    }


def _prediction(ends: list[Row], time: float) -> Row:
    """How well the closed form with this s foretells the errors, and which strategy is best."""
    errors: dict[tuple[int, float], dict[str, float]] = {}
    for row in ends:
        place = (row["num_steps"], row["eigenvalue"])
        errors.setdefault(place, {})[row["strategy"]] = row["error"]
    factors, foretold = [], []
    for (num_steps, eigenvalue), measured in errors.items():
        problem = scalar_problem(eigenvalue, num_steps, max(time, _SHORTEST))
        plans = {name: build_strategy(name, num_steps) for name in measured}
        excess = {name: evaluate(problem, plan).excess[0] for name, plan in plans.items()}
        predicted = {name: float(np.abs(np.expm1(value))) for name, value in excess.items()}
        clear = [name for name, error in measured.items() if error > _RESOLVED]
        factors += [abs(np.log(measured[name] / predicted[name])) for name in clear]
        if len(clear) == len(measured):
            best = min(measured, key=measured.__getitem__)
            foretold.append(best == min(predicted, key=predicted.__getitem__))
    return {
        "median_factor": float(np.exp(np.median(factors))) if factors else None,
        "worst_factor": float(np.exp(max(factors))) if factors else None,
        "best_foretold": sum(foretold),
        "contests": len(foretold),
    }


_QUESTION = "Do students that are really trained end where the closed form says?"
STUDY = Study(__name__, _QUESTION, DynamicsSettings, run)
