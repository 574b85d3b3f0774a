"""Planners: from a problem to the best plan, with a proof of how good it is.

Each takes a problem and K >= 1, the number of student steps, chooses where they begin too, and
raises ``InputError`` for a problem that it does not cover or a K out of range. A new planner is a
function with the decorator ``planner`` in a file of its own in this package, whose import does not
import numba.
"""

import os
from importlib import import_module
from pkgutil import iter_modules

from opmerge.errors import InputError
from opmerge.planners.auto import auto_plan
from opmerge.planners.brute_force import best_strategy_plan, brute_force_plan
from opmerge.planners.certified import certified_plan
from opmerge.planners.interval import interval_plan
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.result import PLANNERS, PlannerResult, planner
from opmerge.planners.scalar import scalar_plan
from opmerge.problem import Problem

__all__ = [
    "PLANNERS",
    "PlannerResult",
    "auto_plan",
    "best_strategy_plan",
    "brute_force_plan",
    "certified_plan",
    "find_plan",
    "interval_plan",
    "pareto_plan",
    "planner",
    "scalar_plan",
]

# numba sets the number of threads of the OpenMP that torch uses too, without asking how many
# there should be; it reads this variable when it is imported.
if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

for _module in iter_modules(__path__, f"{__name__}."):
    if not _module.name.endswith("._kernels"):
        import_module(_module.name)


def find_plan(problem: Problem, planner: str = "auto", student_steps: int = 1) -> PlannerResult:
    """The best merge plan of K = ``student_steps`` trees that the planner of that name finds.

    Raises:
        InputError: for an unknown name, a problem that the planner does not cover, or K < 1 or > T.
    """
    if planner not in PLANNERS:
        raise InputError("planner", f"must be one of {', '.join(PLANNERS)}", planner)
    return PLANNERS[planner](problem, student_steps)
