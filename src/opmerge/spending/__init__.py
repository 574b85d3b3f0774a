"""A budget spent on a few-step student: calibrated, planned, trained and measured."""

from opmerge.spending.prices import Prices, priced
from opmerge.spending.record import spending_plan, spending_record
from opmerge.spending.steps import Spending, Trained

__all__ = ["Prices", "Spending", "Trained", "priced", "spending_plan", "spending_record"]
