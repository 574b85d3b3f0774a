"""The denoisers that new teachers are made of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch_helpers import scrambled

from opmerge.denoisers.networks import MLPDenoiser, make_dit, make_unet
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.errors import InputError


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 4, 4), (2, 2, 3, 2)])
def test_output_has_the_shape_of_the_sample_and_starts_at_zero(shape: tuple[int, ...]) -> None:
    network = MLPDenoiser(list(shape), 16, 2)
    output = network(torch.randn(3, *shape), torch.tensor([0, 5, 900])).sample
    assert torch.equal(output, torch.zeros(3, *shape))
    (output,) = scrambled(network)(torch.randn(3, *shape), 7, return_dict=False)
    assert output.shape == (3, *shape)
    assert output.abs().min() > 0


def test_samples_do_not_mix_and_time_and_class_count_in_every_block() -> None:
    network = scrambled(MLPDenoiser([1, 4], 16, 3, num_classes=4))
    z, times, labels = torch.randn(5, 1, 4), torch.arange(5) * 100, torch.tensor([0, 1, 2, 3, 0])
    together = network(z, times, labels).sample
    for row in range(5):
        alone = network(z[row : row + 1], times[row], labels[row : row + 1]).sample
        torch.testing.assert_close(alone, together[row : row + 1])
    assert (network(z, times, 3 - labels).sample != together).flatten(1).any(1).all()
    for block in network.blocks:
        before = network(z, times, labels).sample
        with torch.no_grad():
            block.proj_embedding.weight.zero_()
        assert (network(z, times, labels).sample != before).flatten(1).any(1).all()
    # No block is told of time or class any more, so nothing depends on them.
    assert torch.equal(network(z, times + 1, labels).sample, network(z, times, labels).sample)
    assert torch.equal(network(z, times, 3 - labels).sample, network(z, times, labels).sample)


def test_a_scalar_time_is_that_time_for_all() -> None:
    network = scrambled(MLPDenoiser([4], 16, 1))
    z = torch.randn(3, 4)
    expected = network(z, torch.tensor([30, 30, 30])).sample
    for time in (30, torch.tensor(30), torch.tensor([30]).expand(3)):
        # one row of the embedding's products may be rounded otherwise than three
        torch.testing.assert_close(network(z, time).sample, expected)
    assert not torch.allclose(network(z, 31).sample, expected)


@pytest.mark.parametrize(("num_classes", "labels"), [(None, [0]), (2, None)])
def test_labels_are_required_with_classes_and_only_then(
    num_classes: int | None, labels: list[int] | None
) -> None:
    network = MLPDenoiser([4], 16, 1, num_classes)
    with pytest.raises(ValueError, match="class_labels must be given if num_classes is set"):
        network(torch.zeros(1, 4), 0, None if labels is None else torch.tensor(labels))


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    network = scrambled(MLPDenoiser([1, 2, 2], 16, 2, num_classes=3))
    network.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = MLPDenoiser.from_pretrained(tmp_path)
    expected = {"sample_shape": [1, 2, 2], "hidden_size": 16, "num_layers": 2, "num_classes": 3}
    assert expected.items() <= dict(loaded.config).items()
    given = torch.randn(2, 1, 2, 2), torch.tensor([3, 4]), torch.tensor([2, 0])
    assert torch.equal(loaded(*given).sample, network(*given).sample)


@pytest.mark.parametrize(
    ("side", "widths"),
    [(8, [32, 64]), (12, [32, 64]), (16, [32, 64]), (32, [32, 64, 128]), (64, [32, 64, 128, 256])],
)
def test_usual_unets_go_down_to_four_to_eight_pixels(side: int, widths: list[int]) -> None:
    network = make_unet((1, side, side))
    assert list(network.config.block_out_channels) == widths
    assert 4 <= side / 2 ** (len(widths) - 1) <= 8
    assert network.config.sample_size == side


def test_unet_reads_images_and_labels() -> None:
    network = make_unet((3, 16, 16), (8, 16), num_classes=2)
    images = torch.randn(2, 3, 16, 16)
    outputs = [
        network(images, torch.tensor([1, 9]), torch.tensor(pair)).sample
        for pair in ([0, 1], [0, 0])
    ]
    assert outputs[0].shape == images.shape
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.equal(outputs[0][1], outputs[1][1])


def test_a_dit_begins_at_zero_with_blocks_that_change_nothing() -> None:
    network = make_dit((3, 16, 16), 24, 2, num_classes=2).train()
    images, times, labels = torch.randn(2, 3, 16, 16), torch.tensor([1, 9]), torch.tensor([0, 1])
    assert network.config["patch_size"] == 2  # 8 × 8 tokens
    assert torch.equal(network(images, times, labels).sample, torch.zeros_like(images))
    tokens = torch.randn(2, 64, 24)
    block = network.transformer_blocks[1]
    assert torch.equal(block(tokens, timestep=times, class_labels=labels), tokens)


def test_a_dit_leaves_out_no_label_by_itself() -> None:
    """diffusers' would, in training, by draws of no seed of ours."""
    network = make_dit((1, 8, 8), 8, 1, num_classes=3, null_class=True).train()
    torch.manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    images, times = torch.randn(1, 1, 8, 8).expand(64, -1, -1, -1), torch.full((64,), 5)
    made = network(images, times, torch.zeros(64, dtype=torch.long)).sample
    torch.testing.assert_close(made, made[:1].expand(64, -1, -1, -1))
    assert not torch.equal(network(images[:1], times[:1], torch.tensor([3])).sample, made[:1])


def test_a_dit_without_classes_is_told_nothing(tmp_path: Path) -> None:
    network = make_dit((1, 8, 8), 8, 1)
    network.save_pretrained(tmp_path / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    teacher = load_teacher(tmp_path, 4)
    assert (teacher.num_classes, teacher.needs) == (None, {})
    z = torch.randn(2, 1, 8, 8)
    assert teacher.student_denoiser(z, 2).x0.shape == z.shape


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((64,), {}, "dit must come with square images of 8 to 64 pixels a side"),
        ((1, 8, 8), {"token_side": 3}, "`token_side` must divide 8, the side of the images, got 3"),
        ((1, 8, 8), {"hidden_size": 6}, "`hidden_size` must be a multiple of 4 for a dit, got 6"),
    ],
)
def test_dits_refuse_what_they_cannot_read(
    shape: tuple[int, ...], given: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_dit(shape, **{"hidden_size": 8, "num_layers": 1, **given})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64,), "unet must come with square images of 8 to 64 pixels a side"),
        ((8, 8), "unet must come with square images"),
        ((1, 8, 16), "unet must come with square images"),
        ((1, 4, 4), "unet must come with square images"),
        ((3, 128, 128), "unet must come with square images"),
        ((8, 8, 3), "channels first, got samples of shape (8, 8, 3); if colours come last"),
        ((1, 25, 25), "unet with 3 resolutions must come with a side divisible by 4, got 25"),
    ],
)
def test_unets_refuse_other_shapes(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_unet(shape)
