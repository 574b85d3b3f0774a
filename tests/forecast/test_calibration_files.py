"""Files of a calibration: what is written is read, to float32, and what does not fit is refused."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge import InputError, cosine_schedule, eigenvalue_spectrum
from opmerge.forecast import (
    PRIORS,
    CalibrationFile,
    FittedLaw,
    MergeLaw,
    TeacherTable,
    forecast,
    linear_table,
    read_calibration,
    read_table,
    write_table,
)
from opmerge.forecast.files import content_digest
from opmerge.plans import Plan, build_strategy

FIXTURE = Path(__file__).parent.parent / "fixtures" / "v0_1" / "calibration.json"
OPTIMIZATION = {"learning_rate": 3e-4, "mixed_precision": "no", "seed": 0}
SETTINGS: dict[str, Any] = {
    "merge_rule": "denoiser-copy",
    "num_iterations": 400,
    "optimization": OPTIMIZATION,
}


def table(steps: int = 8) -> TeacherTable:
    return linear_table(eigenvalue_spectrum([3.0, 0.4, 0.1]), cosine_schedule(steps))


def written(folder: Path, **changes: Any) -> Path:
    """A calibration.json with what its reader needs."""
    digest = write_table(folder / "table.npz", table())
    content = {
        "format": "opmerge.calibration",
        "version": 2,
        "law": PRIORS["mlp"].to_dict(),
        "table": {"file": "table.npz", "sha256": digest},
        "settings": SETTINGS,
        "teacher_sha256": "ab" * 32,
        "network_evaluations": {"probes": 1e6, "table": 2e5},
        **changes,
    }
    path = folder / "calibration.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_table_is_read_as_it_was(tmp_path: Path) -> None:
    """Each deviation keeps the 6e-8 of its own float32, however near two estimates are."""
    path, own = tmp_path / "table.npz", table(64)
    write_table(path, own)
    again = read_table(path)
    for start in (64, 33, 2):
        for split in range(start + 1):
            for stop in (0, max(split - 1, 0)):
                before = own.deviation(start, split, stop)
                exact = before > 1e-12  # below it products of 1 have lost what float64 holds
                assert again.deviation(start, split, stop)[exact] == pytest.approx(
                    before[exact], rel=1e-6
                )
    assert np.array_equal(again.nodes, own.nodes)
    assert again.gains == pytest.approx(own.gains, rel=1e-6)
    assert (again.is_nonlinear, again.output_spread) == (False, own.output_spread)
    assert np.array_equal(again.schedule.alphas, own.schedule.alphas)
    plan = build_strategy("progressive", 64)
    counts = [100] * len(plan.merges)
    errors = [forecast(PRIORS["mlp"], each, plan, counts).rms for each in (own, again)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_the_same_table_is_the_same_file(tmp_path: Path) -> None:
    assert write_table(tmp_path / "a.npz", table()) == write_table(tmp_path / "b.npz", table())


def test_a_calibration_is_read(tmp_path: Path) -> None:
    found = read_calibration(written(tmp_path))
    assert isinstance(found, CalibrationFile)
    assert found.law == PRIORS["mlp"]
    assert found.network_evaluations == 1.2e6
    assert found.learning_rate == 3e-4
    found.check(teacher_sha256="ab" * 32, schedule=cosine_schedule(8), settings=SETTINGS)
    # what a law does not depend on
    found.check(settings={**SETTINGS, "num_iterations": 7, "budget": [3e9, "evaluations"]})


@pytest.mark.parametrize("version", [3, 0, "2", None, True])
def test_a_calibration_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    with pytest.raises(InputError, match="version` must be 1 or 2"):
        read_calibration(written(tmp_path, version=version))


@pytest.mark.parametrize("name", ["share_exponent", "onset"])
def test_a_law_of_before_a_term_was_known_is_read(tmp_path: Path, name: str) -> None:
    """As one in which it does not count."""
    law = PRIORS["mlp"].to_dict()
    for each in (law["law"], *law["draws"]):
        del each[name]
    found = read_calibration(written(tmp_path, law=law)).law
    assert {getattr(each, name) for each in (found.law, *found.draws)} == {0.0}


def test_a_law_of_before_with_a_floor_is_read_without(tmp_path: Path) -> None:
    law = PRIORS["mlp"].to_dict()
    floored = {**law, "law": {**law["law"], "floor": 0.02}}
    floored["draws"] = [{**each, "floor": 0.03} for each in law["draws"]]
    assert read_calibration(written(tmp_path, law=floored)).law == PRIORS["mlp"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"teacher_sha256": "cd" * 32}, "`teacher` must be abababababab, as the calibration's"),
        ({"schedule": cosine_schedule(4)}, "`steps` must be 8, as the calibration's, got 4"),
        (
            {"schedule": replace(cosine_schedule(8), alphas=cosine_schedule(8).alphas ** 2)},
            # cos and cos² are furthest apart where cos is nearest 1/2
            "`schedule` must be alpha_5 = 0.5556, as the calibration's, got alpha_5 = 0.3087",
        ),
        (
            {"settings": {**SETTINGS, "optimization": {**OPTIMIZATION, "learning_rate": 1e-3}}},
            "`learning_rate` must be 0.0003, as the calibration's, got 0.001",
        ),
        (
            {"settings": {**SETTINGS, "optimization": {**OPTIMIZATION, "mixed_precision": "bf16"}}},
            "`mixed_precision` must be no, as the calibration's, got bf16",
        ),
        (
            {"settings": {**SETTINGS, "linear_part": "solve"}},
            "`linear_part` must be the default, as the calibration's, got solve",
        ),
    ],
)
def test_another_run_is_refused(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        read_calibration(written(tmp_path)).check(**asked)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_version_1_has_no_law() -> None:
    with pytest.raises(InputError, match="must hold a law of merges, which version 1 did not; run"):
        read_calibration(FIXTURE)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rates", ([], [0.0], [-1.0], [1e31], ["4"], [None], [4.0, 4.0], 4.0, [float("nan")])),
        ("first", (0.0, -1.0, 1e300, float("inf"), True)),
        ("behind", (-1e300, 21.0, float("nan"))),
        ("share_exponent", (11.0, -1e300, None)),
        ("shape", (0.0, -0.6, 1e300)),
        ("length_exponent", (-1.6, 1e300, "1.6")),
        ("onset", (-1.0, 1e300)),
    ],
)
@pytest.mark.parametrize("place", ["law", "draws"])
def test_a_law_out_of_range_is_refused(
    tmp_path: Path, name: str, values: tuple[object, ...], place: str
) -> None:
    for value in values:
        law = PRIORS["mlp"].to_dict()
        (law["law"] if place == "law" else law["draws"][7])[name] = value
        with pytest.raises(InputError, match=rf"`law\.{name}|`law\.draws") as error:
            read_calibration(written(tmp_path, law=law))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scatter", -0.1), ("scatter", 1e300), ("draws", {}), ("draws", [{}] * 10_001)],
)
def test_what_stands_beside_a_law_is_checked(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"`law\.{name}"):
        read_calibration(written(tmp_path, law={**PRIORS["mlp"].to_dict(), name: value}))


def test_a_law_is_finite_at_the_ends_of_its_ranges() -> None:
    """In every combination; what is foretold is that training leaves nothing, or all, or more."""
    wide, plan = table(), build_strategy("progressive", 8)
    counts = [100] * len(plan.merges)
    ends = itertools.product(
        (1e-30, 1e30),
        (1e-30, 1e30),
        (-20, 20),
        (1e-30, 1e30),
        (0, 10),
        (-10, 10),
        (0, 1e30),
    )
    for rate, *others in ends:
        law = MergeLaw((rate,), *others)
        expected = forecast(FittedLaw(law, (law,), 10.0, "its ends"), wide, plan, counts)
        assert 0 <= expected.low <= expected.rms <= expected.high < np.inf


def test_a_changed_calibration_says_so(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "sha256": content_digest(content)}, indent=1))
    law = read_calibration(path).law
    content["law"]["law"]["rates"][0] *= 1.001
    path.write_text(json.dumps({**content, "sha256": content_digest(json.loads(path.read_text()))}))
    with pytest.raises(InputError, match="was changed"):
        read_calibration(path)
    path.write_text(json.dumps(content))  # on purpose, or of before there was a digest
    assert read_calibration(path).law != law


def test_a_table_that_is_missing_or_another(tmp_path: Path) -> None:
    path = written(tmp_path)
    write_table(tmp_path / "table.npz", table(4))
    with pytest.raises(InputError, match="must be the table that the calibration came with"):
        read_calibration(path)
    (tmp_path / "table.npz").unlink()
    with pytest.raises(InputError, match="must be the table that the calibration came with"):
        read_calibration(path)
    (tmp_path / "table.npz").write_bytes(b"none")
    with pytest.raises(InputError, match=r"must be the table of a calibration"):
        read_table(tmp_path / "table.npz")
    with pytest.raises(InputError, match="must be whole"):
        read_calibration(written(tmp_path, settings=None, table={}))


def test_a_free_step_adds_its_own_error() -> None:
    """That of the table at its landing, carried by the gains; none in the linear theory."""
    free = np.zeros((9, 3))
    free[5] = [0.01, 0.02, 0.03]
    given, plan = replace(table(), free_steps=free), Plan.from_nested([[5, 4, 3, 2, 1]], 8)
    without = forecast(PRIORS["mlp"], table(), plan, [100]).rms
    whole = forecast(PRIORS["mlp"], given, plan, [100]).rms
    assert whole**2 - without**2 == pytest.approx(free[5] @ table().gains[5] ** 2)
