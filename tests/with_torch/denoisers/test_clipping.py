"""Clipped teachers: their samples are those of diffusers, and without clipping they are others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from test_teacher_folder import tiny_unet

from opmerge.denoisers.clipping import Clipping
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.errors import InputError

CLIPS: list[dict[str, Any]] = [
    {"clip_sample": True},
    {"clip_sample": True, "clip_sample_range": 0.3},
    {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": 0.7},
]


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clipped_teacher_samples_as_diffusers_does(tmp_path: Path, clip: dict[str, Any]) -> None:
    """Bit for bit; left out, the samples are those of the same pipeline that does not clip."""
    network = tiny_unet()
    folder = write_teacher_folder(tmp_path / "model", network, DDIMScheduler(**clip))
    with pytest.raises(InputError, match="pass `ignore_clipping`"):
        load_teacher(folder, 5)
    teacher = load_teacher(folder, 5, ignore_clipping=True)
    noise = initial_noise(teacher.sample_shape, 2, seed=0)
    for clips, scheduler in (
        (True, DDIMScheduler(**clip)),
        (False, DDIMScheduler(clip_sample=False)),
    ):
        scheduler.set_timesteps(5)
        z = noise
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                z = scheduler.step(network(z, timestep).sample, timestep, z).prev_sample
        assert torch.equal(replace(teacher, clips=clips).sample(noise), z)
    assert not torch.equal(replace(teacher, clips=True).sample(noise), teacher.sample(noise))


def test_solvers_of_x0_take_the_noise_that_fits(tmp_path: Path) -> None:
    """DPM-Solver++ at first order lands by z and the clipped x̂ alone."""
    network = tiny_unet()
    folder = write_teacher_folder(tmp_path / "model", network, DDIMScheduler())
    scheduler = DPMSolverMultistepScheduler(solver_order=1, thresholding=True)
    scheduler.save_pretrained(folder / "scheduler")
    teacher = load_teacher(folder, 5, ignore_clipping=True)
    noise = initial_noise(teacher.sample_shape, 2, seed=0)
    scheduler.set_timesteps(5)
    z = noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            z = scheduler.step(network(z, timestep).sample, timestep, z).prev_sample
    found = replace(teacher, clips=True).sample(noise)
    torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)


def test_a_key_that_the_class_does_not_read_clips_nothing() -> None:
    assert Clipping.of(DPMSolverMultistepScheduler()) is None
    heun = Clipping.of(HeunDiscreteScheduler(clip_sample=True, clip_sample_range=2.0))
    assert heun is not None
    assert heun(torch.tensor([-3.0, 0.5])).tolist() == [-2.0, 0.5]
    assert not heun.keeps_noise
