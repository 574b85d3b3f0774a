"""Plan files: round trips, refusals with place and rule, fuzzing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import plans, schedules

from opmerge.errors import InputError
from opmerge.plans.codec import (
    FORMAT,
    VERSION,
    PlanFile,
    dumps_with_students,
    format_students,
    parse_plan,
)
from opmerge.plans.strategies import build_strategy
from opmerge.plans.tree import Plan
from opmerge.schedules import NoiseSchedule, cosine_schedule
from opmerge.training import GradientDescent, GradientFlow, TrainingModel

PREDICTED = {"w2": 0.25, "lower_bound": 0.125, "gap": 0.5}
SPECTRUM = {"sha256": "ab" * 32, "number": 3, "min": 0.1, "max": 2.0}


def plan_file(
    plan: Plan,
    schedule: NoiseSchedule | None = None,
    training: TrainingModel | None = None,
    predicted: dict[str, float] | None = None,
) -> PlanFile:
    return PlanFile(
        plan,
        schedule or cosine_schedule(plan.num_steps),
        training or GradientFlow(),
        "operator-copy",
        "teacher",
        predicted or PREDICTED,
        SPECTRUM,
    )


def assert_same(one: PlanFile, other: PlanFile) -> None:
    assert one.plan == other.plan
    np.testing.assert_array_equal(one.schedule.alphas, other.schedule.alphas)
    np.testing.assert_array_equal(one.schedule.sigmas, other.schedule.sigmas)
    assert one.schedule.to_dict() == other.schedule.to_dict()
    assert one.training == other.training
    assert (one.merge_rule, one.objective) == (other.merge_rule, other.objective)
    assert (one.predicted, one.spectrum) == (other.predicted, other.spectrum)


VALID = plan_file(Plan.from_nested([[5, 4], [[3, 2], 1]]))
TEXT = VALID.dumps()
CONTENT: dict[str, Any] = json.loads(TEXT)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as error:
        PlanFile.loads(text)
    assert "\n" not in str(error.value)
    return str(error.value)


# Round trips


def test_the_file_is_the_contract() -> None:
    assert CONTENT == {
        "format": "opmerge.plan",
        "version": 1,
        "steps": 5,
        "students": [[5, 4], [[3, 2], 1]],
        "schedule": {"name": "cosine", "parameters": {}},
        "training": {"model": "gradient-flow", "time": 6.4},
        "merge_rule": "operator-copy",
        "objective": "teacher",
        "predicted": PREDICTED,
        "spectrum": SPECTRUM,
    }
    assert (FORMAT, VERSION) == ("opmerge.plan", 1)
    assert TEXT.endswith("}\n")


def test_the_expected_paired_error_is_kept_where_there_is_one() -> None:
    """It may be below W2 too, where that is to the data."""
    for error in (0.0, 0.125, 0.5):
        written = plan_file(VALID.plan, predicted={**PREDICTED, "paired_rms": error})
        assert PlanFile.loads(written.dumps()).predicted == {**PREDICTED, "paired_rms": error}


@given(st.data())
def test_any_plan_goes_through_a_file(data: st.DataObject) -> None:
    plan = data.draw(plans(max_steps=14, max_students=5))
    training = data.draw(
        st.builds(GradientFlow, st.floats(1e-9, 1e9))
        | st.builds(GradientDescent, st.floats(1e-9, 1e9), st.integers(1, 10**9))
    )
    w2 = data.draw(st.floats(0, allow_nan=False, allow_infinity=False))
    bound, gap = data.draw(st.floats(0, w2)), data.draw(st.floats(0, 1))
    predicted = {"w2": w2, "lower_bound": bound, "gap": gap}
    written = plan_file(plan, data.draw(schedules(plan.num_steps)), training, predicted)
    read = PlanFile.loads(written.dumps())
    assert_same(read, written)
    assert read.dumps() == PlanFile.loads(read.dumps()).dumps()


@pytest.mark.parametrize("strategy", ["boot", "consistency", "vanilla", "progressive"])
@pytest.mark.parametrize("student_steps", [1, 7])
def test_a_thousand_steps(tmp_path: Path, strategy: str, student_steps: int) -> None:
    """One-step sequential plans are 999 lists deep; the JSON module stops before that."""
    written = plan_file(build_strategy(strategy, 1000, student_steps))
    path = written.write(tmp_path / "new" / "plan.json")
    assert_same(PlanFile.read(path), written)
    assert path.read_text().count("[") == len(written.plan.merges) + 1


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CONTENT),
        json.dumps(CONTENT, sort_keys=True, indent=7),
        json.dumps(dict(reversed(CONTENT.items())), separators=(",", ":")),
        json.dumps(CONTENT, indent=1).replace("\n", "\r\n").replace(":", "\t: "),
    ],
)
def test_the_layout_of_a_file_does_not_matter(text: str) -> None:
    assert_same(PlanFile.loads(text), VALID)


def test_strings_that_look_like_students_are_strings() -> None:
    """Quoted in a note, ahead of the students and behind them."""
    schedule = NoiseSchedule(
        np.array([1.0, 0.6, 0.0]),
        np.array([0.0, 0.8, 1.0]),
        notes=('"students": [[[', "\\", "\0students 0\0 ü"),
    )
    written = plan_file(Plan.from_nested([[2, 1]]), schedule)
    assert_same(PlanFile.loads(written.dumps()), written)
    content = json.loads(written.dumps())
    reordered = {"schedule": content.pop("schedule"), **content}
    assert_same(PlanFile.loads(json.dumps(reordered)), written)


def test_a_plan_stands_for_its_students_at_any_depth() -> None:
    deep, short = build_strategy("boot", 1200), Plan.from_nested([2, 1])
    text = dumps_with_students({"a": deep, "b": [{"c": short}, "é"]})
    assert text == (
        f'{{\n  "a": {format_students(deep)},\n  "b": [\n    {{\n      "c": [2, 1]\n    }},\n'
        '    "é"\n  ]\n}'
    )
    with pytest.raises(TypeError, match="not JSON"):
        dumps_with_students({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        dumps_with_students({"a": math.nan})


def test_nothing_is_said_where_nothing_was_predicted() -> None:
    plan, schedule = Plan.from_nested([[2, 1]]), cosine_schedule(2)
    written = PlanFile(plan, schedule, GradientFlow(), "denoiser-copy", "teacher")
    assert set(CONTENT) - set(json.loads(written.dumps())) == {"predicted", "spectrum"}
    assert_same(PlanFile.loads(written.dumps()), written)


# Refusals


def change(**changes: Any) -> str:
    """The valid file with other values; ``...`` leaves a key out."""
    content = {**CONTENT, **changes}
    return json.dumps({key: value for key, value in content.items() if value is not ...})


def swap(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


ARRAYS = {"name": "arrays", "alphas": [1.0, 0.6, 0.0], "sigmas": [0.0, 0.8, 1.0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`plan file` must be a JSON object (Expecting value)"),
        ("null", "`plan file` must be a JSON object, got NoneType"),
        ("[]", "`plan file` must be a JSON object, got list"),
        ("\ufeff" + TEXT, "`plan file` must be a JSON object (Unexpected UTF-8 BOM"),
        (TEXT[:-3], "`plan file` must be a JSON object (Expecting ',' delimiter)"),
        (TEXT + "x", "`plan file` must be a JSON object (Extra data)"),
        (swap("0.25", "NaN"), "`plan file` must be a JSON object (NaN is not a number)"),
        (swap("0.25", "-Infinity"), "`plan file` must be a JSON object (-Infinity is not a number"),
        (swap('"steps": 5', '"steps": 5, "steps": 5'), "`plan file` must be a JSON object (a key"),
        (swap('"students"', '"students": [1], "students"'), "`plan file` must be a JSON object (a"),
        (
            swap("5,", "9" * 5000 + ","),
            "`plan file` must be a JSON object (99999999999999999999… is too large",
        ),
        ("[" * 100_000, "`plan file` must be a JSON object (it is nested too deep"),
        ('{"students": ' + "[" * 100_000, "`plan file` must be a JSON object (it is nested too"),
        ("{}", '`plan file: format` must be "opmerge.plan", got None'),
        (change(format="opmerge.record"), '`plan file: format` must be "opmerge.plan", got '),
        (change(format=["opmerge.plan"]), '`plan file: format` must be "opmerge.plan", got '),
        (
            change(version=2),
            "`plan file: version` must be 1, got 2; upgrade opmerge if the file is newer",
        ),
        (change(version="1"), "`plan file: version` must be 1, got '1'"),
        (change(version=True), "`plan file: version` must be 1, got True"),
        (change(extra=1), "`plan file` must have no other keys, got extra"),
        (change(steps=6), "`plan file: steps` must be 5, as the students cover, got 6"),
        (change(steps="5"), "`plan file: steps` must be 5, as the students cover, got '5'"),
        (change(steps=None), "`plan file: steps` must be 5, as the students cover, got None"),
        (
            change(steps=1, students=[1], schedule={"name": "cosine"}).replace(
                '"steps": 1', '"steps": true'
            ),
            "`plan file: steps` must be 1, as the students cover, got True",
        ),
        (change(merge_rule="copy"), "`plan file: merge_rule` must be one of operator-copy, den"),
        (change(merge_rule=[]), "`plan file: merge_rule` must be one of operator-copy, denoiser"),
        (change(objective=None), "`plan file: objective` must be one of teacher, data, got None"),
        # Students
        (change(students={}), "`plan file: students` must be a list of trees, got {}"),
        (change(students=None), "`plan file: students` must be a list of trees"),
        (
            change(students="[[5, 4]]"),
            "`plan file: students` must be a list of trees, got [[5, 4]]",
        ),
        (change(students=[]), "`students` must have at least one tree"),
        (change(students=[5, 4, 3, 2]), "`students` must end with step 1, got 2"),
        (change(students=[5, 3, 2, 1]), "`students[1]` must start at step 4, got 3"),
        (change(students=[[5, 4], [3, 2, "1"]]), "`plan file: students` must be nested lists of"),
        (change(students=[[5, 4], [3, 2, 1.5]]), "`plan file: students` must be nested lists of"),
        (change(students=[[5, 4], [3, 2, 1e0]]), "`plan file: students` must be nested lists of"),
        (change(students=[[5, 4], [3, 2, True]]), "`plan file: students` must be nested lists of"),
        (change(students=[[5, 4], [3, 2, {}]]), "`plan file: students` must be nested lists of"),
        (change(students=[[5, 4], [3, 2, -1]]), "`plan file: students` must be nested lists of"),
        (swap("5, 4", "٥, 4"), "`plan file: students` must be nested lists of steps"),
        (swap("5, 4", "5, 4,"), "`plan file: students` must be nested lists of steps; position 7"),
        (swap("5, 4", "5 4"), "`plan file: students` must be nested lists of steps; position 3"),
        # Schedule
        (change(schedule=None), "`schedule` must be an object, got None"),
        (change(schedule={"name": "sine"}), "`schedule.name` must be one of cosine, nichol-dhari"),
        (change(schedule=ARRAYS), "`schedule.alphas` must have num_steps + 1 = 6 entries, got 3"),
        # Training
        (change(training=None), "`training` must be an object with a `model`"),
        (change(training={"model": "sgd"}), "`training.model` must be one of gradient-flow, gra"),
        (swap("6.4", "-1"), "`merge_time` must be finite and > 0, got -1"),
        (swap("6.4", "1e999"), "`plan file` must be a JSON object (1e999 is too large"),
        (swap("6.4", "1" + "0" * 400), "`plan file` must be a JSON object (10000"),
        # Predicted, spectrum
        (
            change(predicted=[]),
            "`plan file: predicted` must be an object with w2, lower_bound, gap",
        ),
        (change(predicted={"w2": 1}), "`plan file: predicted` must be an object with w2, lower_bo"),
        (
            change(predicted={**PREDICTED, "x": 1}),
            "`plan file: predicted` must be an object with w2, lower_bound, gap, got ",
        ),
        (
            change(predicted={**PREDICTED, "w2": -1}),
            "`plan file: predicted.w2` must be a number >=",
        ),
        (
            change(predicted={**PREDICTED, "gap": "0"}),
            "`plan file: predicted.gap` must be a number",
        ),
        (
            change(predicted={**PREDICTED, "paired_rms": -1}),
            "`plan file: predicted.paired_rms` must be a number >=",
        ),
        (
            change(predicted={**PREDICTED, "paired_rms": None}),
            "`plan file: predicted.paired_rms` must be a number",
        ),
        (change(predicted={**PREDICTED, "gap": None}), "`plan file: predicted.gap` must be a num"),
        (change(predicted={**PREDICTED, "gap": True}), "`plan file: predicted.gap` must be a num"),
        (swap("0.25", "1e999"), "`plan file` must be a JSON object (1e999 is"),
        (swap("0.25", "1" + "0" * 400), "`plan file` must be a JSON object (10000"),
        (change(spectrum=None), "`plan file: spectrum` must be an object with sha256, number, min"),
        (
            change(spectrum={**SPECTRUM, "sha256": 1}),
            "`plan file: spectrum` must be an object with sha256, number, min, max, got ",
        ),
        (change(spectrum={**SPECTRUM, "min": -1}), "`plan file: spectrum.min` must be a number >="),
        (change(spectrum={**SPECTRUM, "mean": 1}), "`plan file: spectrum` must be an object with"),
    ],
)
def test_malformed_files_are_refused_with_the_place_and_the_rule(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize("key", [key for key in CONTENT if key not in ("format", "version")])
def test_a_missing_key_is_named(key: str) -> None:
    assert refusal(change(**{key: ...})) == f"`plan file` must have the key {key}"


@pytest.mark.parametrize(
    ("students", "place", "rule"),
    [
        ([[5, 4], [3, [1, 2]]], "students[1][1][1]", "must continue with step 0 (noise side"),
        ([[5, 4], [3, [2]]], "students[1][1]", "must have at least 2 children, got [2]"),
        ([[5, 4], [3, 2, 0]], "students[1][2]", "must be a step >= 1, got 0"),
    ],
)
def test_the_place_says_which_student(students: Any, place: str, rule: str) -> None:
    message = refusal(change(students=students))
    assert place in message
    assert rule in message


@pytest.mark.parametrize("depth", range(850, 1010, 5))
def test_nesting_about_the_recursion_limit_is_refused(depth: int) -> None:
    for place in ("predicted", "schedule", "training", "extra"):
        deep = "[" * depth + "]" * depth
        refusal(
            TEXT.replace("{", '{"extra": ' + deep + ",", 1)
            if place == "extra"
            else change(**{place: "deep"}).replace('"deep"', deep)
        )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def read(path: Path | str) -> str:
        with pytest.raises(InputError) as error:
            PlanFile.read(path)
        return str(error.value)

    assert read(tmp_path) == f"`{tmp_path}` cannot be read (Is a directory)"
    missing = tmp_path / "missing.json"
    assert read(missing) == f"`{missing}` cannot be read (No such file or directory)"
    path = tmp_path / "plan.json"
    path.write_bytes(TEXT.encode() + b"\xff")
    assert read(path).startswith(f"`{path}` must be text in UTF-8, got other bytes from ")
    with path.open("wb") as stream:
        stream.truncate(64 * 1024**2 + 1)
    assert read(path) == f"`{path}` must be at most 64 MiB, got 67108865"
    path.write_text(change(steps=6))
    assert read(path) == f"`{path}: steps` must be 5, as the students cover, got 6"


# Fuzzing: whatever is read is refused by InputError, or written again as it was read


def read_or_refuse(text: str) -> None:
    try:
        read = PlanFile.loads(text)
    except InputError:
        return
    assert_same(PlanFile.loads(read.dumps()), read)


@settings(max_examples=150)
@given(st.text() | st.text('[]{}0123456789,:" \\truefalsn.eE+-'))
@example("")
@example('{"students": [')
@example('"students":[]')
@example("[1" + "0" * 5000 + "]")
def test_random_text(text: str) -> None:
    read_or_refuse(text)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The valid file after a few cuts, copies and insertions."""
    text = TEXT
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        middle = draw(
            st.sampled_from(
                ["", text[start:stop] * 2, "[", "]", "0", "9", "-", "e9", '"', ",", "\\"]
            )
            | st.text(max_size=3)
        )
        text = text[:start] + middle + text[stop:]
    return text


@settings(max_examples=300)
@given(mutated())
def test_mutated_files(text: str) -> None:
    read_or_refuse(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**64, 5, 1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["cosine", "arrays", "gradient-flow", "operator-copy", "data"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.data())
def test_any_value_in_any_place(data: st.DataObject) -> None:
    content = json.loads(TEXT)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        break
    place[key] = data.draw(json_values)
    read_or_refuse(json.dumps(content))


@settings(max_examples=100)
@given(json_values)
def test_random_json(value: Any) -> None:
    read_or_refuse(json.dumps(value))


@settings(max_examples=200)
@given(json_values | st.integers() | st.recursive(st.integers(-1, 6), st.lists, max_leaves=8))
def test_random_nested_lists(value: Any) -> None:
    try:
        plan = Plan.from_nested([value])
    except InputError:
        return
    assert plan.to_nested() == [value]


def test_lists_nested_beyond_all_measure_are_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="must have at least 2 children") as refused:
        parse_plan("[" * 1500 + "2,1" + "]" * 1500)
    assert len(str(refused.value)) < 200


def test_a_budget_and_the_interval_of_its_forecast_are_written_and_read() -> None:
    file = PlanFile.loads(budgeted())
    assert (file.budget, file.iterations) == (2e6, (400,))
    assert (file.predicted["low"], file.predicted["high"]) == (0.5, 2.0)
    assert PlanFile.loads(file.dumps()).dumps() == file.dumps()


def budgeted(**changed: object) -> str:
    plan = Plan.from_nested([[3, 2, 1]])
    predicted = {"w2": 1.0, "lower_bound": 0.0, "gap": 1.0, "paired_rms": 1.0}
    predicted |= {"low": 0.5, "high": 2.0}
    spectrum = {"sha256": "0" * 64, "number": 1, "min": 1.0, "max": 1.0}
    file = PlanFile(
        plan,
        cosine_schedule(3),
        GradientFlow(),
        "denoiser-copy",
        "teacher",
        predicted,
        spectrum,
        (400,),
        2e6,
    )
    content = json.loads(file.dumps())
    for key, value in changed.items():
        content[key] = value if not isinstance(value, dict) else {**content[key], **value}
    return json.dumps({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"budget": 0}, "budget` must be > 0"),
        ({"budget": "much"}, "budget` must be a finite number"),
        ({"iterations": None}, "budget` must come with iterations"),
        ({"predicted": {"low": 3.0}}, "low` must be <= high"),
        ({"predicted": {"low": -1.0}}, "low` must be a number >= 0"),
    ],
)
def test_a_malformed_budget_is_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        PlanFile.loads(budgeted(**changed))
    assert words in str(refused.value)
