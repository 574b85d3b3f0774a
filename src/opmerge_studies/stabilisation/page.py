"""The page of the study `stabilisation`: averaged weights and timestep mixing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent, times
from opmerge.page.study import Answer
from opmerge_studies.stabilisation.figures import (
    comb_figure,
    error_figure,
    retention_figure,
    shift_figure,
    simulation_figure,
    time_figure,
)
from opmerge_studies.stabilisation.numbers import (
    SEQUENTIAL,
    crossing_shifts,
    in_phase,
    kept_plans,
    operator_copy_losses,
    regrets,
    time_factors,
)

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_STILL = 1e-3  # relative shift of a λ, or loss by a wrong plan, that nobody would notice


def answer(record: Record) -> Answer:
    """Whether averaging and mixing move the transition and the best plan."""
    return Answer(
        finding=f"{_ema_sentence(record)} {_mixing_sentence(record)}",
        evidence=(
            _why_sentence(record),
            _plan_sentence(record),
            _cost_sentence(record),
            _simulation_sentence(record),
            _comb_sentence(record),
            "Why mixing favours vanilla: as u = b/P, students trained at once are a chain of "
            "filters, du_k/ds = r_k (u_{k-1} - u_k). What remains of u_K - 1 is the sum of all "
            "initial errors with weights ≥ 0, vanilla's term the same whatever stands before it; "
            "where all initial errors have one sign, every further student only adds.",
            *_time_sentences(record),
        ),
        limits=(
            "The averaged student is what is kept, built on and copied. Within a sequential merge "
            "targets are fixed, so averaging the target network too changes nothing there.",
            "Mixed students share no parameters: each gets the same time s as in turn, a share "
            "1/K of the total. A network that learns one step from the samples of another needs "
            "less; how much less decides, and is not modelled.",
            "All mixed students start from the teacher's step at their own t. Progressive plans "
            "multiply students when mixed, and are left out.",
            "One eigenvalue at a time for crossings, plain cosine schedule, gradient flow.",
        ),
        overturned_by=(
            "For averaging: a spectrum on which the plan of plain flow loses more than "
            f"{percent(_STILL)} while β s is above 8.",
            "For mixing: a network trained on all t at once that reaches the error of sequential "
            "merges in the same total time.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The shifts, and the price of either technique."""
    shifts, losses = crossing_shifts(record), regrets(record)
    factors = time_factors(record)
    most = max((row["num_steps"] for row in factors), default=0)
    largest = [row["factor"] for row in factors if row["num_steps"] == most]
    return [
        ("averaging: crossing moves by at most", number(max(shifts)) if shifts else "–"),
        ("averaging: wrong plan loses at most", percent(max(losses))),
        ("averaging: same plan", f"{kept_plans(record)} of {len(losses)}"),
        (
            f"mixing, T = {most}: time to make up",
            f"{min(largest):.2g} to {max(largest):.2g} times" if largest else "–",
        ),
        (
            "λ where mixed BOOT loses to vanilla",
            "{} of {}".format(*operator_copy_losses(record)),
        ),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    yield draw_section(
        "Averaging: the transition",
        "How far the first crossing of BOOT and vanilla moves when weights are averaged. β s is "
        "the number of the average's time constants in a merge.",
        lambda: shift_figure(record),
        _crossing_table(record),
    )
    yield draw_section(
        "Averaging: the price",
        "What is left of a student's initial error at T; dashed: without averaging.",
        lambda: retention_figure(record),
        _plan_table(record),
    )
    if len({row["num_iterations"] for row in record["tables"]["ema_simulation"]}) > 1:
        yield draw_section(
            "Averaging: simulated",
            "Descent in N steps with its average kept, merge by merge, against the closed form.",
            lambda: simulation_figure(record),
            _simulation_table(record),
        )
    yield draw_section(
        "Mixing: errors",
        "Relative error of the whole student under operator copy; dashed: all merges trained at "
        "once, for the same total time.",
        lambda: error_figure(record),
        _error_table(record),
    )
    yield draw_section(
        "Mixing: how much longer",
        "Time that students trained at once need to err as little as those trained in turn, by "
        "strategy; the bars span λ and both merge rules. Dotted: T - 1, what perfect sharing of "
        "parameters between steps could at most return.",
        lambda: time_figure(record),
        _time_table(record),
    )
    yield draw_section(
        "Mixing: the best comb",
        "Merges of the best of all combs (only the student at T is trained, block after block), "
        "in turn and at once.",
        lambda: comb_figure(record),
        _comb_table(record),
    )


def _ema_sentence(record: Record) -> str:
    shifts, losses = crossing_shifts(record), regrets(record)
    if not shifts:
        return "With averaged weights BOOT and vanilla do not cross."
    stays = max(shifts) < _STILL
    moves = "leave the transition where it is" if stays else "move the transition"
    return (
        f"Averaged weights {moves}: the crossing shifts by at most {number(max(shifts))} in λ, and "
        f"the plan made without them stays the best in {kept_plans(record)} of {len(losses)} cases "
        f"and loses at most {percent(max(losses))}."
    )


def _mixing_sentence(record: Record) -> str:
    lost, points = operator_copy_losses(record)
    if lost < points:
        return (
            f"With all steps trained at once BOOT beats vanilla at {points - lost} of {points} λ."
        )
    factors = [row["factor"] for row in time_factors(record)]
    needs = (
        f"mixing needs {min(factors):.2g} to {max(factors):.2g} times as long as merging in turn"
        if factors
        else "mixing never errs as little as merging in turn"
    )
    return (
        "Training all steps at once, without shared parameters, abolishes the transition: vanilla "
        f"beats BOOT at all {points} (λ, T), and {needs}."
    )


def _why_sentence(record: Record) -> str:
    rows = [row for row in record["tables"]["ema_crossings"] if row["turnovers"] is not None]
    apart = [
        abs(row["first_crossing"] - row["crossing_of_shorter_flow"])
        for row in rows
        if row["first_crossing"] is not None and row["crossing_of_shorter_flow"] is not None
    ]
    if not apart:
        return "No crossing was found to compare with that of a shorter flow."
    return (
        "BOOT and vanilla are trained at T alone, where n_T = 1 for every λ, so an average is "
        "there a shorter time: the crossing agrees with that of flow for the time that leaves the "
        f"same retention within {max(apart):.0e}."
    )


def _plan_sentence(record: Record) -> str:
    moved = [row for row in record["tables"]["ema_plans"] if not row["same_plan"]]
    if not moved:
        return "Averaging changed no best plan."
    parts = [
        f"T = {row['num_steps']}, λ {row['spectrum']}, β s = {row['turnovers']:g} "
        f"({row['merges_without']} → {row['merges']} merges, {percent(row['regret'])})"
        for row in moved
    ]
    return (
        f"Best plans that averaging changed, with the loss by keeping the old: {'; '.join(parts)}."
    )


def _cost_sentence(record: Record) -> str:
    rows = [row for row in record["tables"]["ema_crossings"] if row["turnovers"] is not None]
    plain = next(row for row in record["tables"]["ema_crossings"] if row["turnovers"] is None)
    parts = {
        row["turnovers"]: f"{times(row['retention'] / plain['retention'])} at β s = "
        f"{row['turnovers']:g}"
        for row in rows
    }
    return (
        "What averaging costs, as every merge lags: the retention at T is "
        f"{', '.join(parts.values())} what flow leaves. Nothing is gained here, for without noise "
        "there is nothing to average out."
    )


def _simulation_sentence(record: Record) -> str:
    rows = record["tables"]["ema_simulation"]
    finest = max(row["num_iterations"] for row in rows)
    coarsest = min(row["num_iterations"] for row in rows)

    def worst(count: int) -> float:
        return max(float(row["difference"]) for row in rows if row["num_iterations"] == count)

    return (
        f"Descent with its average kept, through whole plans, tends to the closed form: errors "
        f"differ by {percent(worst(coarsest))} with {coarsest} iterations a merge and by "
        f"{percent(worst(finest))} with {finest}."
    )


def _comb_sentence(record: Record) -> str:
    rows = record["tables"]["mixing_combs"]
    outside = [row for row in rows if not in_phase(row, "band")]
    vanilla = sum(row["best_at_once"] == "vanilla" for row in outside)
    boot = sum(row["best_in_turn"] == "boot" for row in outside)
    return (
        f"Of all {rows[0]['combs']} combs of T = {rows[0]['num_steps']}, outside 1 < λ < 2.1 and "
        f"under both merge rules, the best at once is vanilla at {vanilla} of {len(outside)} λ; in "
        f"turn it is BOOT at {boot} of them."
    )


def _time_sentences(record: Record) -> Iterator[str]:
    for row in record["tables"]["mixing_crossings"]:
        if row["window_from"] is not None:
            yield (
                f"T = {row['num_steps']}: mixed BOOT beats vanilla only where its error passes "
                f"through 0, from λ = {row['window_from']:.6f} on for "
                f"{row['window_to'] - row['window_from']:.1e}."
            )
    every = record["tables"]["mixing_time"]
    for num_steps in sorted({row["num_steps"] for row in every}):
        rows = [row for row in every if row["num_steps"] == num_steps]
        plain = [row["factor"] for row in time_factors(record) if row["num_steps"] == num_steps]
        averaged = [row["factor"] for row in rows if row["turnovers"] and row["factor"]]
        ratio = max(row["error_ratio"] for row in rows if row["turnovers"] is None)
        yield (
            f"T = {num_steps}: at equal total time mixing errs up to {times(ratio)} as much; it "
            f"needs {_range(plain)} times the time ({_range(averaged)} if targets are averages "
            f"too), where sharing parameters could save at most {num_steps - 1} times."
        )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}" if values else "countless"


def _crossing_table(record: Record) -> Table:
    return make_table(
        "Crossings of BOOT and vanilla with averaged weights",
        ("T", "β s", "retention", "as flow for s", "first crossing", "last", "of that flow"),
        [
            (
                str(row["num_steps"]),
                _turnovers(row),
                number(row["retention"]),
                f"{row['effective_time']:.3f}",
                *(
                    "–" if row[key] is None else f"{row[key]:.8f}"
                    for key in ("first_crossing", "last_crossing", "crossing_of_shorter_flow")
                ),
            )
            for row in record["tables"]["ema_crossings"]
        ],
    )


def _plan_table(record: Record) -> Table:
    return make_table(
        "Best plans with averaged weights",
        ("T", "λ", "β s", "W2 without", "W2", "gap", "old plan loses", "merges", "plan"),
        [
            (
                str(row["num_steps"]),
                row["spectrum"],
                _turnovers(row),
                *(number(row[key]) for key in ("w2_without", "w2")),
                percent(row["gap"]),
                percent(row["regret"]),
                str(row["merges"]),
                row["plan"],
            )
            for row in record["tables"]["ema_plans"]
        ],
        note="Gap: by how much any plan could be better than the best found, at most.",
    )


def _simulation_table(record: Record) -> Table:
    return make_table(
        "Averaged descent against the closed form",
        ("N", "plan", "T", "β s", "difference"),
        [
            (
                str(row["num_iterations"]),
                row["strategy"],
                str(row["num_steps"]),
                _turnovers(row),
                number(row["difference"]),
            )
            for row in record["tables"]["ema_simulation"]
        ],
    )


def _error_table(record: Record) -> Table:
    keys = ("vanilla", *SEQUENTIAL, "mixed_boot", "mixed_consistency")
    return make_table(
        "Relative errors, merged in turn and mixed",
        ("T", "rule", "λ", *(key.replace("_", " ") for key in keys)),
        [
            (
                str(row["num_steps"]),
                row["merge_rule"],
                f"{row['eigenvalue']:.4g}",
                *(number(row[key]) for key in keys),
            )
            for row in record["tables"]["mixing"]
        ],
    )


def _time_table(record: Record) -> Table:
    return make_table(
        "How much longer mixing takes",
        ("T", "rule", "plan", "targets", "λ", "times as long", "error at equal time"),
        [
            (
                str(row["num_steps"]),
                row["merge_rule"],
                row["strategy"],
                "as they are" if row["turnovers"] is None else f"averages, β s = {_turnovers(row)}",
                f"{row['eigenvalue']:g}",
                "–" if row["factor"] is None else f"{row['factor']:.3f}",
                f"{number(row['error_ratio'])} times",
            )
            for row in record["tables"]["mixing_time"]
        ],
    )


def _comb_table(record: Record) -> Table:
    return make_table(
        "The best comb, in turn and at once",
        ("rule", "λ", "in turn", "merges", "at once", "merges"),
        [
            (
                row["merge_rule"],
                f"{row['eigenvalue']:.4g}",
                row["best_in_turn"],
                str(row["merges_in_turn"]),
                row["best_at_once"],
                str(row["merges_at_once"]),
            )
            for row in record["tables"]["mixing_combs"]
        ],
    )


def _turnovers(row: Row) -> str:
    return "∞" if row["turnovers"] is None else f"{row['turnovers']:g}"
