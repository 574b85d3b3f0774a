"""Any text as a plan file: one line, or what a plain JSON reader finds in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from fuzzing import accepted, fuzz, odd_values
from hypothesis import strategies as st
from strategies import plans, schedules

from opmerge import GradientFlow, PlanFile

ENCODINGS = st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
"""Of a file, most often as we write it."""


@st.composite
def whole_files(draw: st.DrawFn) -> dict[str, Any]:
    """What a plan file says, with everything that it may say besides."""
    plan = draw(plans(max_steps=8))
    file = PlanFile(
        plan,
        draw(schedules(plan.num_steps)),
        GradientFlow(draw(st.floats(0.05, 30))),
        draw(st.sampled_from(["denoiser-copy", "operator-copy"])),
        draw(st.sampled_from(["teacher", "data"])),
    )
    content: dict[str, Any] = json.loads(file.dumps())
    if draw(st.booleans()):
        least, most = sorted(draw(st.tuples(st.floats(0, 9), st.floats(0, 9))))
        content["predicted"] = {"w2": most, "lower_bound": least, "gap": draw(st.floats(0, 1))}
        content["spectrum"] = {"sha256": "0a" * 32, "number": 3, "min": least, "max": most}
    if draw(st.booleans()):
        count, counts = len(plan.merges), st.integers(1, 10**9)
        content["iterations"] = draw(st.lists(counts, min_size=count, max_size=count))
        content["budget"] = draw(st.floats(1, 1e12))
    if draw(st.booleans()):
        content["guidance"] = {"scale": draw(st.floats(1.5, 9)), "interval": [1, plan.num_steps]}
    return content


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A plan file, changed as a value, as text, as bytes or not at all, and whether it is whole."""
    content = draw(whole_files())
    changes = draw(st.integers(0, 2)), draw(st.sampled_from([0, 0, 1, 2]))
    for _ in range(changes[0]):
        place = content
        key = draw(st.sampled_from(sorted(content)))
        if isinstance(content[key], dict) and content[key] and draw(st.booleans()):
            place, key = content[key], draw(st.sampled_from(sorted(content[key])))
        if draw(st.booleans()):
            place[key] = draw(odd_values)
        else:
            del place[key]
        if not content:
            break
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    for _ in range(changes[1]):
        here = draw(st.integers(0, len(text)))
        text = text[:here] + draw(st.text(max_size=3)) + text[here + draw(st.integers(0, 3)) :]
    written = text.encode(draw(ENCODINGS), "replace")
    is_whole = changes == (0, 0)
    if not is_whole and draw(st.sampled_from([False] * 4 + [True])):
        here = draw(st.integers(0, len(written)))
        written = written[:here] + draw(st.binary(max_size=3)) + written[here + 1 :]
    return written, is_whole


def leaves(nested: Any) -> list[int]:
    return (
        [nested] if isinstance(nested, int) else [leaf for each in nested for leaf in leaves(each)]
    )


@fuzz(18_000, damaged=damaged_files())
def test_plan_files(damaged: tuple[bytes, bool], tmp_path_factory: pytest.TempPathFactory) -> None:
    written, is_whole = damaged
    path = tmp_path_factory.getbasetemp() / "fuzzed_plan.json"
    path.write_bytes(written)
    file = accepted(lambda: PlanFile.read(path))
    if file is None:
        assert not is_whole
        return
    content = json.loads(written)
    assert file.plan.to_nested() == content["students"]
    steps = [step for tree in content["students"] for step in leaves(tree)]
    assert steps == list(range(content.get("free_step", content["steps"]), 0, -1))
    assert file.plan.num_steps == content["steps"]
    assert (file.merge_rule, file.objective) == (content["merge_rule"], content["objective"])
    assert file.schedule.num_steps == content["steps"]
    for key in ("alphas", "sigmas"):
        assert getattr(file.schedule, key).tolist() == content["schedule"].get(
            key, getattr(file.schedule, key).tolist()
        )
    told: Mapping[str, Any] = {
        "predicted": file.predicted,
        "spectrum": file.spectrum,
        "iterations": file.iterations and list(file.iterations),
        "budget": file.budget,
        "guidance": file.guidance,
    }
    for key, value in told.items():
        assert (value or None) == (content.get(key) or None), key
    again = PlanFile.loads(file.dumps())
    assert (again.plan, again.training) == (file.plan, file.training)
