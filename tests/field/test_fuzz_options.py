"""Any options of the commands that plan: one line, or what mpmath says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fuzzing import answered, fuzz, numbers
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from oracles import DirectTheory, Setting

from opmerge import NoiseSchedule
from opmerge.plans import STRATEGIES, build_strategy

Run = Callable[..., tuple[int, str, str]]

EIGENVALUES = "0.3,1.2,4"
DIGITS = 60
"""Of mpmath: W2 is asserted to 1e-12."""
FILES = {
    "evaluate": {"evaluation.json"},
    "spectrum": {"spectrum.npz", "spectrum.png"},
    "plan": {"config.json", "record.json", "report.html", "plan.json"},
    "compare": {"config.json", "record.json", "report.html", "plan.json"},
}
OF_DATA: dict[str, SearchStrategy[str]] = {
    "--as": st.sampled_from(["samples", "eigenvalues", "spectrum", ""]),
    "--seed": numbers,
    "--top_k": numbers,
    "--split": st.sampled_from(["train", "all", "Test"]),
    "--image_size": numbers,
    "--patch_size": numbers,
    "--stride": numbers,
}
OF_PROBLEMS: dict[str, SearchStrategy[str]] = {
    "--student_steps": st.one_of(st.integers(0, 4).map(str), numbers),
    "--merge_time": st.one_of(st.floats(0.05, 30).map(repr), numbers),
    "--merge_rule": st.sampled_from(["operator-copy", "denoiser_copy", "copy", ""]),
    "--objective": st.sampled_from(["teacher", "data", "Data", "both"]),
    "--schedule": st.sampled_from(["cosine", "linear", "equal-angle:2", "cosine:1", "no/where"]),
    "--training": st.sampled_from(["gradient-flow", "no/where", "."]),
}
OF_SEARCHES: dict[str, SearchStrategy[str]] = {
    "--planner": st.sampled_from(["auto", "certified", "interval", "pareto", "brute_force", "x"]),
    "--epsilon": numbers,
    "--strategy": st.sampled_from(["boot", "uniform:3", "phased:3,1", "hybrid:-1", "boot:2", "x"]),
    "--max_seconds": st.one_of(st.just("60"), numbers),
}
OPTIONS = {
    "spectrum": OF_DATA,
    "evaluate": OF_DATA | OF_PROBLEMS,
    "plan": OF_DATA | OF_PROBLEMS | OF_SEARCHES,
    "compare": OF_DATA | OF_PROBLEMS | OF_SEARCHES,
}
PLANS = st.sampled_from(
    [*STRATEGIES, "uniform:2", "[[4,3],[2,1]]", "[[[4,3],2],1]", "[4,3]", "[", ""]
)
SOURCES = st.sampled_from([f"eigenvalues:{EIGENVALUES}"] * 6 + ["digits", "digit", "eigenvalues:"])


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    """A command, its source and its options."""
    name = draw(st.sampled_from(["evaluate"] * 6 + ["spectrum"] * 3 + ["plan", "compare"]))
    chosen = draw(st.lists(st.sampled_from(sorted(OPTIONS[name])), max_size=4, unique=True))
    asked = {option: draw(OPTIONS[name][option]) for option in chosen}
    if name == "evaluate":
        asked["--plan"] = draw(PLANS)
    if name != "spectrum":
        asked["--steps"] = draw(st.one_of(*[st.integers(3, 6).map(str)] * 5, numbers))
    return name, draw(SOURCES), asked


@fuzz(2_500, command=commands(), writes=st.sampled_from([True] + [False] * 11))
def test_options(
    command: tuple[str, str, dict[str, str]],
    writes: bool,
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    name, source, asked = command
    folder = tmp_path_factory.getbasetemp() / "run_of_fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    words = [word for pair in asked.items() for word in pair]
    words += ["--output_dir", str(folder)] if writes else []
    result = run(name, source, *words, "--json")
    if not answered(result):
        assert not folder.exists(), result
        return
    assert files_of(folder) == (FILES[name] if writes else set())
    if name != "spectrum" and source != "digits":
        check(json.loads(result[1]), asked)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def check(found: Mapping[str, Any], asked: Mapping[str, str]) -> None:
    """The plan, its strategies and its bound by the direct formulas."""
    problem, best = found["problem"], found.get("best", found.get("plan"))
    setting = Setting(
        NoiseSchedule.from_dict(problem["schedule"], problem["steps"]),
        tuple(sorted(map(float, EIGENVALUES.split(",")), reverse=True)),
        time=problem["training"]["time"],
        merge_rule=problem["merge_rule"],
        objective=problem["objective"],
    )
    theory = DirectTheory(setting, DIGITS)

    def w2(students: Sequence[Any]) -> Any:
        expected = float(theory.distances(theory.plan(students)[0]))
        return pytest.approx(expected, rel=1e-6, abs=1e-12)

    assert best["w2"] == w2(best["students"])
    for strategy in found.get("strategies", ()):
        named = build_strategy(strategy["name"], problem["steps"], len(best["students"]))
        assert strategy["w2"] == w2(named.to_nested())
        assert strategy["w2"] >= best["lower_bound"] * (1 - 1e-9)
