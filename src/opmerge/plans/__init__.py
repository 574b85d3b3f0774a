"""Merge plans: trees, named orders, files and drawings."""

from opmerge.plans.codec import PlanFile, dumps_with_students
from opmerge.plans.drawing import draw_text, plan_figure
from opmerge.plans.nested import format_students, parse_plan
from opmerge.plans.strategies import STRATEGIES, build_strategy, default_strategies
from opmerge.plans.tree import Merge, Plan, Tree

__all__ = [
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
