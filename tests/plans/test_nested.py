"""Nested lists as text: written as JSON writes them, read as it reads them, at any depth."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import nested_trees, plans

from opmerge.errors import InputError
from opmerge.plans.codec import format_students, format_tree, parse_nested, parse_plan
from opmerge.plans.strategies import build_strategy
from opmerge.plans.tree import Plan, Tree


@given(st.data())
def test_trees_go_through_text(data: st.DataObject) -> None:
    start = data.draw(st.integers(1, 14))
    nested = data.draw(nested_trees(start, data.draw(st.integers(0, start - 1))))
    text = format_tree(Tree.from_nested(nested))
    assert text == json.dumps(nested)
    assert parse_nested(text) == nested
    assert parse_nested(f" {text} ".replace(",", "\n , ")) == nested


@given(plans())
def test_plans_go_through_text(plan: Plan) -> None:
    text = format_students(plan)
    assert text == json.dumps(plan.to_nested())
    assert parse_plan(text, plan.student_steps) == plan
    if plan.student_steps == 1:
        assert parse_plan(format_tree(plan.students[0])) == plan


@settings(max_examples=200)
@given(st.text("[],123 ", max_size=12) | st.text('0123456789eE.-+[],"a', max_size=8))
def test_text_is_read_as_json_would_be(text: str) -> None:
    """Where the JSON module reads lists of whole numbers, so do we; nothing else is read."""
    assume(not re.search(r"[0-9]{6}", text))  # more steps than a plan may have

    def is_nested(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(is_nested, value))
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9

    try:
        expected = json.loads(text)
        readable = is_nested(expected) and "-" not in text
    except ValueError:
        readable = False
    if readable:
        assert parse_nested(text) == expected
    else:
        with pytest.raises(InputError):
            parse_nested(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`plan` must be complete nested lists, got nothing"),
        ("[[3, 2], 1", "`plan` must be complete nested lists, got [[3, 2], 1"),
        (
            "[[3; 2], 1]",
            (
                "`plan` must be nested lists of steps; position 3 does not fit, got ; 2], 1]; "
                "write e.g. [[3, 2], 1]"
            ),
        ),
        ("[3, 2, 1],", "`plan` must be nested lists of steps; position 9 does not fit, got ,"),
        ("3 2", "`plan` must be nested lists of steps; position 1 does not fit"),
        ("[3, 2, 1]]", "`plan` must be nested lists of steps; position 9 does not fit, got ]"),
        ("1" * 10, "`plan` must be nested lists of steps; position 0 does not fit"),
    ],
)
def test_malformed_text_is_refused_with_its_position(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_nested(text)
    assert str(error.value).startswith(message)


def test_the_number_of_students_must_fit() -> None:
    assert parse_plan("[[3, 2], 1]", 2).to_nested() == [[3, 2], 1]
    assert parse_plan("[[3, 2], 1]").to_nested() == [[[3, 2], 1]]
    assert parse_plan("[[[3, 2], 1]]").to_nested() == [[[3, 2], 1]]
    assert parse_plan("1").to_nested() == [1]
    with pytest.raises(InputError, match="`plan` must have 3 trees, got 2"):
        parse_plan("[[3, 2], 1]", 3)


@pytest.mark.parametrize("strategy", ["boot", "consistency"])
def test_a_thousand_levels(strategy: str) -> None:
    plan = build_strategy(strategy, 1000)
    assert parse_plan(format_students(plan)) == plan
    assert parse_plan(format_tree(plan.students[0])) == plan
