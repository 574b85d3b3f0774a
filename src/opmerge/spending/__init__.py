"""A budget spent on a few-step student: calibrated, planned, trained and measured."""

from opmerge.spending.prices import Prices, priced
from opmerge.spending.rates import learning_rates
from opmerge.spending.record import spending_plan, spending_record
from opmerge.spending.steps import Spending
from opmerge.spending.students import Trained

__all__ = [
    "Prices",
    "Spending",
    "Trained",
    "learning_rates",
    "priced",
    "spending_plan",
    "spending_record",
]
