"""Noise schedules: named ones, arrays of the user's, and those of diffusers."""

from opmerge.schedules.diffusers import diffusers_schedule
from opmerge.schedules.noise import (
    NoiseSchedule,
    arrays_schedule,
    cosine_schedule,
    equal_angle_schedule,
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)
from opmerge.schedules.resolve import resolve_schedule

__all__ = [
    "NoiseSchedule",
    "arrays_schedule",
    "cosine_schedule",
    "diffusers_schedule",
    "equal_angle_schedule",
    "linear_schedule",
    "nichol_dhariwal_schedule",
    "resolve_schedule",
    "scaled_linear_schedule",
]
