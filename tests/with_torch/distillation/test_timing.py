"""Seconds of an iteration, by a clock that the work itself turns."""

from __future__ import annotations

import time

import pytest
from accelerate import Accelerator

from opmerge.distillation.timing import Pace, seconds_of

BOX = 3.0  # seconds, about


@pytest.mark.parametrize(
    ("fixed", "per_sample", "size"),
    [(1e-4, 1e-6, 128), (1e-4, 0.0, 100), (0.0, 0.02, 128), (0.3, 0.05, 64), (2.0, 20.0, 128)],
)
def test_slow_work_is_timed_on_fewer_samples(
    monkeypatch: pytest.MonkeyPatch, fixed: float, per_sample: float, size: int
) -> None:
    now, counts = 0.0, list[int]()

    def work(count: int) -> None:
        nonlocal now
        now += fixed + per_sample * count
        counts.append(count)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found = seconds_of(Accelerator(cpu=True), work, size)
    if max(counts) > 1:  # two sizes tell what is fixed; with one all is taken to grow
        assert found == pytest.approx(fixed + per_sample * size)
    else:
        assert found == pytest.approx((fixed + per_sample) * size)
    assert now <= BOX + 3 * (fixed + per_sample)
    assert (max(counts) == size) == (2 * (fixed + per_sample * size) < BOX)


@pytest.mark.parametrize(("per_sample", "size"), [(1e-5, 128), (0.02, 128), (2.0, 16)])
@pytest.mark.parametrize("stalled", range(12))
def test_a_machine_that_stands_still_once_does_not_slow_the_work(
    monkeypatch: pytest.MonkeyPatch, per_sample: float, size: int, stalled: int
) -> None:
    """The call of one number takes 40 seconds more, whichever that is."""
    now, calls = 0.0, 0

    def work(count: int) -> None:
        nonlocal now, calls
        now += per_sample * count + 40.0 * (calls == stalled)
        calls += 1

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert seconds_of(Accelerator(cpu=True), work, size) == pytest.approx(per_sample * size)


def test_a_pace_adds_up_what_is_done() -> None:
    """Ten iterations on four batches of targets, of three passes each."""
    assert Pace(draw=0.5, operator=2.0, step=7.0).seconds(10, 4, 3.0) == 10 * 7 + 4 * (0.5 + 6)
