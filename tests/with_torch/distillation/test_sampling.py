"""Samples that depend on the seed and their number alone, and the files that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from opmerge.denoisers.families import class_rows
from opmerge.denoisers.models import Jump, Student, Teacher, initial_noise
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.sampling import (
    draw_samples,
    image_grid,
    write_image_grid,
    write_samples,
)
from opmerge.errors import InputError
from opmerge.schedules import cosine_schedule

DDIM_OF_ONE = DDIM.from_schedule(cosine_schedule(1), "sample")


class ClassOrNoise(nn.Module):
    """Says the sample itself, or its class."""

    def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return z if class_labels is None else class_labels[:, None].expand_as(z).float()


def test_samples_start_from_their_own_noise() -> None:
    """A sampler that gives its noise back, for every batch size the same bits."""
    sampler = Teacher(ClassOrNoise(), DDIM_OF_ONE, (2, 3))
    expected = initial_noise((2, 3), 20, seed=5)
    for batch_size in (1, 7, 20, 100):
        assert torch.equal(draw_samples(sampler, 20, 5, batch_size), expected)
    assert torch.equal(draw_samples(sampler, 3, 5, 2), expected[:3])
    assert not torch.equal(draw_samples(sampler, 20, 6, 20), expected)


def test_a_network_rounds_by_batch_size_at_most() -> None:
    """Matrix products of another size add in another order: float32 rounding, no more."""
    torch.manual_seed(0)
    network = MLPDenoiser((4, 4), hidden_size=16, num_layers=2)
    nn.init.normal_(network.proj_out.weight)
    ddim = DDIM.from_schedule(cosine_schedule(4), "v_prediction")
    teacher = Teacher(network, ddim, (4, 4))
    whole = draw_samples(teacher, 15, 0, 15)
    for batch_size in (1, 7):
        torch.testing.assert_close(draw_samples(teacher, 15, 0, batch_size), whole)


def test_classes_and_progress() -> None:
    jump = Jump(DDIM_OF_ONE.denoiser(ClassOrNoise()), 1, 0, 0)
    sampler = Student((jump,), DDIM_OF_ONE, (2,), class_rows(3))
    reports: list[int] = []
    every = draw_samples(sampler, 7, 0, 2, progress=reports.append)
    assert every[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert reports == [2, 4, 6, 7]
    assert draw_samples(sampler, 3, 0, 2, class_label=2)[:, 1].tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="`class_label` must be in 0 … 2, got 3"):
        draw_samples(sampler, 3, 0, 2, class_label=3)
    with pytest.raises(InputError, match="`class_label` must be left out"):
        draw_samples(Student((jump,), DDIM_OF_ONE, (2,)), 3, 0, 2, class_label=0)
    with pytest.raises(InputError, match="`count` must be >= 1"):
        draw_samples(sampler, 0, 0, 2)


def test_grid_of_grey_images() -> None:
    """-1, 0, 1 become 0, 128 (127.5 to even), 255; what lies beyond is clamped."""
    values = torch.tensor([-1.0, 0.0, 1.0, -9.0, 9.0])
    samples = values[:, None, None].expand(5, 2, 4)
    picture = image_grid(samples)
    assert (picture.mode, picture.size) == ("L", (12, 4))
    found = np.asarray(picture).reshape(2, 2, 3, 4)[:, 0, :, 0]
    assert found.tolist() == [[0, 128, 255], [0, 255, 255]]  # the last place is left over
    assert np.array_equal(np.asarray(image_grid(samples[:, None])), np.asarray(picture))
    assert image_grid(samples, num_columns=5).size == (20, 2)


def test_grid_of_colour_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (3, 3, 2, 4))
    samples = torch.from_numpy(colours / 127.5 - 1)
    path = write_image_grid(tmp_path / "grid.png", samples)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(pixels[:2, 4:8], colours[1].transpose(1, 2, 0))
    assert np.array_equal(pixels[2:, :4], colours[2].transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 5, 5), (0, 5, 5)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="to be shown as images"):
        image_grid(torch.zeros(shape))


def test_array_file(tmp_path: Path) -> None:
    samples = torch.randn(3, 2, 2)
    path = write_samples(tmp_path / "new" / "samples.npy", samples)
    assert np.array_equal(np.load(path, allow_pickle=False), samples.numpy())
    with pytest.raises(InputError, match="cannot be written"):
        write_samples(tmp_path / "new", samples)
