"""How a sampler does while it is distilled: samples of the same noise, beside the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from opmerge.denoisers.conditions import KeptConditions
from opmerge.denoisers.denoiser import Condition
from opmerge.distillation.executor import Distillation
from opmerge.distillation.sampling import (
    decoded,
    draw_samples,
    image_grid,
    is_image,
    told_of,
    write_image_grid,
)

_COUNT, _BATCH, _SEED = 64, 16, 0


@dataclass(frozen=True)
class Look:
    """What was seen after so many iterations: rms distance to the teacher's samples, and a grid."""

    paired_rms: float
    grid: Path | None


class Validation:
    """Looks at a distillation as it stands, by 64 samples of noise that never changes.

    Args:
        folder: where grids are written, ``step-100.png``, and shown to trackers that take images.
        told: what samples are told, in turn; by default what inputs are told.
    """

    def __init__(
        self, run: Distillation, folder: Path, told: Condition | KeptConditions | None = None
    ) -> None:
        self._run, self._folder = run, folder
        self._told = told_of(run.teacher, run.inputs) if told is None else told

    def look(self, step: int) -> Look:
        """Draw samples of the sampler that stands now, after so many iterations.

        Networks are as they would be saved; none of the training's random numbers are used.
        """
        with self._run.standing() as student:
            samples = draw_samples(student, _COUNT, _SEED, _BATCH, told=self._told)
            images = decoded(samples, student, self._run.teacher.folder)
        distances = (samples - self._teachers).flatten(1).square().sum(1)
        rms = float(distances.mean().sqrt())
        if not is_image(tuple(images.shape[1:])):
            return Look(rms, None)
        self._folder.mkdir(parents=True, exist_ok=True)
        grid = write_image_grid(self._folder / f"step-{step}.png", images)
        self._show(images, step)
        return Look(rms, grid)

    @cached_property
    def _teachers(self) -> Tensor:
        return draw_samples(self._run.teacher, _COUNT, _SEED, _BATCH, told=self._told)

    def _show(self, images: Tensor, step: int) -> None:
        """Give the grid to every tracker that takes images."""
        picture = np.asarray(image_grid(images).convert("RGB"))[None]
        for tracker in self._run.accelerator.trackers:
            given = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            if hasattr(tracker, "log_images"):
                tracker.log_images({"samples": picture}, step=step, **given)
