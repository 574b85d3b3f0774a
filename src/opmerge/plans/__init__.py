"""Merge plans: trees, named orders, files and drawings."""

from importlib import import_module
from pkgutil import iter_modules

from opmerge.plans.codec import PlanFile, dumps_with_students, format_students, parse_plan
from opmerge.plans.drawing import plan_figure
from opmerge.plans.outline import draw_text
from opmerge.plans.strategies import EXAMPLES, STRATEGIES, build_strategy, default_strategies
from opmerge.plans.tree import Merge, Plan, Tree

__all__ = [
    "EXAMPLES",
    "STRATEGIES",
    "Merge",
    "Plan",
    "PlanFile",
    "Tree",
    "build_strategy",
    "default_strategies",
    "draw_text",
    "dumps_with_students",
    "format_students",
    "parse_plan",
    "plan_figure",
]

for _module in iter_modules(__path__, f"{__name__}."):  # each registers the strategies it defines
    import_module(_module.name)
