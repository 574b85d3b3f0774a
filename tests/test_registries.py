"""A planner, a strategy or a training model is one file: the package finds it, and names it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import opmerge

NEW = {
    "planners/first.py": """
from opmerge.merging import evaluate
from opmerge.planners.result import PlannerResult, planner
from opmerge.plans import build_strategy

@planner("first", 9)
def first_plan(problem, student_steps=1):
    return PlannerResult(evaluate(problem, build_strategy("zigzag:2", problem.num_steps)), 0.0)
""",
    "plans/zigzag.py": """
from opmerge.plans.strategies import boot, strategy

@strategy("zigzag:3")
def zigzag(start, stop=0, *, width=3):
    return boot(start, stop)
""",
    "training/halving.py": """
from dataclasses import dataclass
import numpy as np
from opmerge.training import Model

@dataclass(frozen=True)
class Halving(Model):
    halvings: int
    name = "halving"

    def retention(self, variances, mode=0):
        return np.full_like(variances, 0.5**self.halvings)
""",
}

NAMES = """
import json, sys
from opmerge.planners import PLANNERS
from opmerge.plans import EXAMPLES, STRATEGIES
from opmerge.training import MODELS
told = [list(PLANNERS), list(STRATEGIES), list(EXAMPLES.values()), list(MODELS)]
heavy = [name for name in ("torch", "numba", "scipy", "matplotlib") if name in sys.modules]
print(json.dumps([*told, heavy]))
"""

USE = """
import json
from opmerge import Problem, cosine_schedule, eigenvalue_spectrum, find_plan
from opmerge.training import training_from_dict
training = training_from_dict({"model": "halving", "halvings": 3})
found = find_plan(Problem(eigenvalue_spectrum([0.5]), cosine_schedule(4), training), "first")
print(json.dumps([found.planner, found.plan.to_nested(), training.to_dict()]))
"""


def told(code: str, folder: Path) -> list[object]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_one_file_adds_a_planner_a_strategy_or_a_training_model(tmp_path: Path) -> None:
    home = Path(opmerge.__file__).parent
    shutil.copytree(home, tmp_path / "opmerge", ignore=shutil.ignore_patterns("__pycache__"))
    before = told(NAMES, tmp_path)
    for path, text in NEW.items():
        (tmp_path / "opmerge" / path).write_text(text, encoding="utf-8")
    planners, strategies, examples, models, heavy = told(NAMES, tmp_path)
    assert planners == [*before[0], "first"]
    assert strategies == [*before[1], "zigzag"]
    assert examples == [*before[2], "zigzag:3"]
    assert models == [*before[3], "halving"]
    assert heavy == before[4] == []
    assert told(USE, tmp_path) == [
        "first",
        [[[[4, 3], 2], 1]],
        {"model": "halving", "halvings": 3},
    ]


def test_names_stand_in_the_order_in_which_they_are_told() -> None:
    from opmerge.planners import PLANNERS
    from opmerge.plans import EXAMPLES
    from opmerge.training import MODELS

    assert ", ".join(PLANNERS) == ("auto, interval, scalar, certified, pareto, brute-force")
    assert ", ".join(EXAMPLES.values()) == (
        "vanilla, progressive, consistency, boot, uniform:4, temporal:8, phased:32,4, hybrid:8"
    )
    assert ", ".join(MODELS) == (
        "gradient-flow, gradient-descent, ema-flow, heavy-ball, gamma-rates"
    )
