"""Faults that were found once, each with the case that showed it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opmerge import (
    GradientFlow,
    InputError,
    Problem,
    arrays_schedule,
    build_strategy,
    cosine_schedule,
    eigenvalue_spectrum,
    find_plan,
)
from opmerge.cli import main
from opmerge.planners import certified_plan
from opmerge.plans import format_students

ALPHAS = np.array([1, 0.983483434793166, 0.968327951720011, 0.9068954574972131,
                   0.6890357346611704, 0.5575411519653709, 0.04722348096922864, 0])  # fmt: skip


def test_enumerated_combs_bound_other_plans_only_where_no_training_inside_pays() -> None:
    """Training inside a block wins by a third here; combs alone were once proved the best."""
    spectrum = eigenvalue_spectrum([2.026106749407175, 1.0935725033968533], [117826653, 79])
    schedule = arrays_schedule(ALPHAS, np.sqrt(1 - ALPHAS**2))
    problem = Problem(spectrum, schedule, GradientFlow(1.088), "operator-copy")
    best = find_plan(problem, "brute-force")
    assert certified_plan(problem).lower_bound <= best.w2
    assert find_plan(problem).w2 == best.w2


@pytest.mark.parametrize(("num_steps", "time"), [(1000, 3.0), (3000, 3.0), (3000, 10.0)])
def test_steps_close_to_1_keep_the_bound_below_the_value(
    monkeypatch: pytest.MonkeyPatch, num_steps: int, time: float
) -> None:
    """The bound once crossed the value by 1e-9, and a clamp hid it; rounding is 1e-12."""
    monkeypatch.setattr("opmerge.planners.result.PlannerResult.__post_init__", lambda self: None)
    spectrum, schedule = eigenvalue_spectrum([1.0, 0.9999]), cosine_schedule(num_steps)
    problem = Problem(spectrum, schedule, GradientFlow(time), "operator-copy")
    assert abs(certified_plan(problem).gap) < 1e-12


def test_the_search_for_combs_ends_where_thousands_tie() -> None:
    """It once filled the memory; [1, 0.999] has one comb and its near copies."""
    spectrum, schedule = eigenvalue_spectrum([1, 0.999]), cosine_schedule(500)
    problem = Problem(spectrum, schedule, GradientFlow(10.0), "operator-copy")
    assert certified_plan(problem).gap < 1e-9


def test_long_nested_lists_are_no_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = format_students(build_strategy("boot", 64))
    assert len(text) > 255
    assert main(["evaluate", "eigenvalues:0.5", "--plan", text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["merges"] == 63


def test_extreme_coefficients_are_refused_before_they_overflow() -> None:
    with pytest.raises(InputError, match=r"`sigmas\[1\]` must be 0 or between 1e-30 and 1e30"):
        arrays_schedule([1, 0.5, 0], [0, 1e160, 1e170])


def test_an_output_that_is_exactly_0_has_a_finite_distance_to_the_data() -> None:
    """One step from noise: P = 0, and the data's excess over it is infinite."""
    schedule = arrays_schedule([1, 0.00653], [0, 307.0])
    problem = Problem(eigenvalue_spectrum([0, 1e12]), schedule)
    assert 0 < problem.teacher_to_data <= 1e6
    problem = Problem(eigenvalue_spectrum([0.5, 2.0]), cosine_schedule(1))
    assert problem.teacher_to_data == pytest.approx(np.sqrt(2.5), rel=1e-14)


def test_a_failed_run_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "eigenvalues:0.5,3", "--output_dir", str(tmp_path), "--steps"]
    assert main([*command, "8"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(record: object) -> str:
        raise InputError("record", "cannot be drawn")

    monkeypatch.setattr("opmerge.page.report_page", fail)
    assert main([*command, "5"]) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    capsys.readouterr()


@pytest.mark.parametrize("command", ["plan", "compare"])
def test_config_holds_the_command_and_every_option_as_used(tmp_path: Path, command: str) -> None:
    assert main([command, "eigenvalues:0.5", "--steps", "4", "--output_dir", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["command"] == command
    options = config["options"]
    assert {name for name, value in options.items() if value is None} <= {
        "image_size",
        "split",
        "top_k",
        "training",
    }
    assert (options["merge_time"], options["merge_rule"]) == (6.4, "denoiser-copy")


def test_auto_takes_the_better_of_two_bounds() -> None:
    spectrum, schedule = eigenvalue_spectrum([0.5, 10]), cosine_schedule(128)
    problem = Problem(spectrum, schedule, GradientFlow(0.1), "operator-copy")
    assert find_plan(problem).gap < 1e-3 < certified_plan(problem).gap


def test_a_path_in_an_error_is_told_as_it_is_typed() -> None:
    assert str(InputError("student", "must be there", Path("a/b"))).endswith(", got a/b")
