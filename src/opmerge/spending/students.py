"""The students of a run's folder: each is trained and measured once, however often it is asked."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from opmerge.denoisers.models import Student
from opmerge.distillation.adapters import fused_student
from opmerge.distillation.executor import Distillation
from opmerge.distillation.model_card import Making
from opmerge.distillation.pipeline import load_student, save_student
from opmerge.distillation.sampling import told_of
from opmerge.errors import InputError
from opmerge.forecast import Forecast
from opmerge.measure.evaluation import Measurement, evaluate_student
from opmerge.plans import Plan
from opmerge.settings.distillation import DistillationConfig
from opmerge.spending.order import Order
from opmerge.store import Store

CLOSED_FORM = "closed form alone"
"""The name of a student that was solved, not trained."""

_SEED = 0  # of the noise that students are compared on; training draws from other streams


@dataclass(frozen=True)
class Trained:
    """A plan that was trained, what it cost and what it left.

    Args:
        name: of the plan.
        iterations: one a merge, or one a stage of one network for all, in the order of execution;
            0 of what was only solved.
        cost: in the unit of the budget, calibration apart.
        forecast: the paired error that the law gave; None where it does not hold.
        measured: the paired error, with its 95 % interval.
        seconds: that the training took here.
    """

    name: str
    plan: Plan
    iterations: tuple[int, ...]
    cost: float
    forecast: Forecast | None
    measured: Measurement
    seconds: float


class RunStudents:
    """What a run trains, by name."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def student(self, name: str) -> Student:
        """A student that was trained, by its name."""
        return load_student(self.folder_of(name)).to(self._order.accelerator.device)

    def folder_of(self, name: str) -> Path:
        """Where that student lies."""
        return self._folder(name) / "student"

    def _folder(self, name: str) -> Path:
        return self._order.folder / "students" / re.sub(r"\W+", "-", name)

    def trained(
        self,
        name: str,
        plan: Plan,
        config: DistillationConfig,
        cost: float,
        expected: Forecast | None,
        num_samples: int | None = None,
    ) -> Trained:
        """Train and measure a student, or read what an earlier run kept of it."""
        order, folder = self._order, self._folder(name)
        given = order.teacher, plan, order.inputs, config, order.accelerator
        run = Distillation(*given, folder, order.warn)
        samples = num_samples or order.asked.num_samples
        identity = {"run": run.identity(), "samples": samples, "seed": _SEED}
        store, is_main = Store(order.folder, warn=order.warn), order.accelerator.is_main_process
        part = f"students/{folder.name}/measured"
        broadcast_object_list(found := [store.read(part, identity) if is_main else None])
        value = found[0]
        if not isinstance(value, dict):
            value = self._made(name, run, folder, samples)
            if is_main:
                store.write(part, identity, value)
        counts = run.iterations if name != CLOSED_FORM else [0] * len(plan.merges)
        measured = Measurement(**value["measured"])
        return Trained(name, plan, tuple(counts), cost, expected, measured, value["seconds"])

    def _made(self, name: str, run: Distillation, folder: Path, samples: int) -> dict[str, Any]:
        """What is kept of a student: its folder, what it was measured to leave, the seconds."""
        order, seconds = self._order, self._train(name, run)
        student = run.student()
        if order.accelerator.is_main_process:
            fuses, copies = order.asked.fuse_lora, order.asked.copy_components
            saved = fused_student(student, run.teacher.network) if fuses else student
            is_trained = name != CLOSED_FORM
            making = Making.of(run, order.spectrum.source, order.prices.told, is_trained)
            save_student(saved, folder / "student", run.teacher, copies, making)
        found = evaluate_student(
            run.teacher,
            student,
            samples,
            _SEED,
            num_resamples=0,
            progress=lambda what, done, total: order.report(f"measuring {name}", done, total),
            told=told_of(student, order.inputs),
        )
        return {"measured": asdict(found.paired_rms), "seconds": seconds}

    def _train(self, name: str, run: Distillation) -> float:
        """Train all stages, or solve them; the seconds that it took, interruptions apart."""
        begin = time.perf_counter()
        if name == CLOSED_FORM:
            self._order.report(f"solving {name}", 0, 1)
            run.solve()
            return time.perf_counter() - begin
        with suppress(InputError):  # all are of another run, as was said: it is trained anew
            run.resume()
        total = sum(run.iterations)
        for record in run.run():
            self._order.report(f"training {name}", record.step, total)
        return time.perf_counter() - begin
