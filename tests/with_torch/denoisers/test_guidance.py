"""Classifier-free guidance: beside diffusers' own pipelines, its parts, what is asked, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from opmerge import cosine_schedule
from opmerge.denoisers.denoiser import Condition, Step, as_condition
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.guidance import Guidance, Guided
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.denoisers.teacher_training import train_teacher
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.guidance import GuidanceOptions
from opmerge.settings.networks import TeacherConfig

T = 4
W = 3.5


class Told(nn.Module):
    """Says its class beside a part of z; counts the rows that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25))
        self.asked: list[int] = []

    def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        self.asked.append(len(z))
        return self.weight * z + class_labels[:, None] + timesteps[:, None] / 10


NULL = Condition({"class_labels": torch.tensor([7])})
Z, LABELS = torch.linspace(-1, 1, 6).reshape(3, 2), torch.tensor([0, 2, 5])


def told(steps: range = range(1, T + 1), prediction_type: Any = "v_prediction") -> Teacher:
    ddim = DDIM.from_schedule(cosine_schedule(T), prediction_type)
    return Teacher(Told(), ddim, (2,), class_rows(6), guidance=Guidance(W, NULL, steps))


def spread(module: nn.Module) -> None:
    """Parameters that nothing leaves at zero, so that all that is told counts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("out_channels", [2, 4])
def test_samples_of_a_guided_dit_have_the_bits_of_its_pipeline(out_channels: int) -> None:
    """A learned variance, which is not guided, is dropped."""
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=out_channels,
        num_layers=2,
        sample_size=4,
        norm_num_groups=2,
        num_embeds_ada_norm=1000,
    )
    spread(network)
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=2, norm_num_groups=2)
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    pipeline = DiTPipeline(network.eval(), vae.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    classes, generator = [1, 207, 999], torch.Generator().manual_seed(3)
    drawn = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        given: Any = dict(generator=generator, num_inference_steps=5, output_type="pt")
        expected = pipeline(classes, guidance_scale=W, **given).images
    teacher = Teacher(network, DDIM.from_scheduler(scheduler, 5), (2, 4, 4), class_rows(1000))
    guided = teacher.guided(GuidanceOptions(guidance_scale=f"{W}"))
    with torch.no_grad():
        latents = 1 / vae.config.scaling_factor * guided.sample(drawn, torch.tensor(classes))
        images = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(images, expected)
    with torch.no_grad():
        unguided = teacher.sample(drawn, torch.tensor(classes))
    assert (guided.sample(drawn, torch.tensor(classes)) - unguided).abs().max() > 0.01


@pytest.mark.parametrize(
    "prediction_type", ["epsilon", "sample", "v_prediction", "flow_prediction"]
)
@pytest.mark.parametrize("step", [2, torch.tensor([1, 4, 2])])
def test_estimates_are_drawn_apart_from_those_told_nothing(
    prediction_type: str, step: Step
) -> None:
    teacher = told(prediction_type="sample")
    ddim = replace(teacher.ddim, alphas=teacher.ddim.alphas + 0.1, prediction_type=prediction_type)
    teacher = replace(teacher, ddim=ddim)
    plain, null = (
        teacher.student_denoiser(Z, step, as_condition(labels))
        for labels in (LABELS, torch.full_like(LABELS, 7))
    )
    guided = teacher.denoiser(Z, step, as_condition(LABELS))
    for name in ("x0", "noise"):
        one, other = getattr(plain, name), getattr(null, name)
        torch.testing.assert_close(getattr(guided, name), other + W * (one - other))


def test_of_an_interval_the_other_steps_are_the_network_alone() -> None:
    """Each sample is asked twice only at the steps of the interval, all in one batch."""
    teacher = told(range(2, 4))
    everywhere, condition = told(), as_condition(LABELS)
    steps = torch.tensor([1, 2, 3])
    estimate = teacher.denoiser(Z, steps, condition)
    assert teacher.network.asked == [3 + 2]  # type: ignore[comparison-overlap]
    assert torch.equal(estimate.x0[0], teacher.student_denoiser(Z, steps, condition).x0[0])
    assert torch.equal(estimate.x0[1:], everywhere.denoiser(Z, steps, condition).x0[1:])
    for step, count in ((1, 3), (2, 6), (3, 6), (4, 3)):
        teacher.denoiser(Z, step, condition)
        assert teacher.network.asked[-1] == count  # type: ignore[index]


def test_a_sample_costs_the_evaluations_that_are_said() -> None:
    for steps, expected in ((range(1, T + 1), 2 * T), (range(2, 4), T + 2), (range(4, 5), T + 1)):
        teacher = told(steps)
        teacher.sample(Z, LABELS)
        asked: Any = teacher.network.asked
        assert sum(asked) == len(Z) * expected == len(Z) * teacher.evaluations(T)
    assert told(range(2, 4)).evaluations(3, 2) == 2
    assert told(range(2, 4)).evaluations(4, 3) == 1
    assert replace(told(), guidance=None).evaluations(T) == T


def test_the_plain_estimate_comes_with_the_guided_one() -> None:
    denoiser, condition = told(range(2, 4)).denoiser, as_condition(LABELS)
    assert isinstance(denoiser, Guided)
    guided, plain = denoiser.estimates(Z, 3, condition)
    assert torch.equal(plain.x0, denoiser.denoiser(Z, 3, condition).x0)
    assert torch.equal(guided.x0, denoiser(Z, 3, condition).x0)


def test_rows_that_null_leaves_out_are_told_in_either_case() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor, t: Tensor, style: Tensor, size: Tensor) -> Tensor:
            return self.weight * z + style + size

    ddim = DDIM.from_schedule(cosine_schedule(T), "sample")
    null = Condition({"style": torch.tensor([[1.0, -1.0]])})
    teacher = Teacher(Sized(), ddim, (2,), guidance=Guidance(2.0, null, range(1, T + 1)))
    style, size = torch.randn(3, 2), torch.randn(3, 2)
    x0 = teacher.denoiser(Z, 1, Condition({"style": style, "size": size})).x0
    torch.testing.assert_close(x0, Z + size + 2 * style - null.rows["style"])


def test_a_perceptron_with_a_null_class_says_it_itself() -> None:
    network = MLPDenoiser([2], 16, 1, num_classes=6, null_class=True)
    spread(network)
    ddim = DDIM.from_schedule(cosine_schedule(T), "v_prediction")
    teacher = Teacher(network, ddim, (2,), class_rows(6))
    by_hand = replace(teacher, guidance=Guidance(W, as_null(6), range(2, 4)))
    found = teacher.guided(GuidanceOptions(guidance_scale="3.5", guidance_interval=(2, 3)))
    assert torch.equal(found.sample(Z, LABELS), by_hand.sample(Z, LABELS))
    assert found.digest == by_hand.digest
    others = [
        replace(teacher, guidance=Guidance(*changed))
        for changed in (
            (W + 1, as_null(6), range(2, 4)),
            (W, as_null(5), range(2, 4)),
            (W, as_null(6), range(2, 5)),
        )
    ]
    digests = {each.digest for each in (teacher, found, *others)}
    assert len(digests) == 5


def as_null(label: int) -> Condition:
    return Condition({"class_labels": torch.tensor([label])})


def test_scale_one_is_no_guidance() -> None:
    plain = replace(told(), guidance=None)
    assert plain.guided(GuidanceOptions(guidance_scale="1.0"), NULL).guidance is None
    assert plain.guided(GuidanceOptions()).guidance is None
    assert plain.digest == plain.guided(GuidanceOptions(guidance_scale="1"), NULL).digest


def test_scale_zero_is_the_network_that_is_told_nothing() -> None:
    teacher = replace(told(), guidance=None).guided(GuidanceOptions(guidance_scale="0"), NULL)
    null = as_condition(torch.full_like(LABELS, 7))
    expected = teacher.student_denoiser(Z, 2, null).x0
    torch.testing.assert_close(teacher.denoiser(Z, 2, as_condition(LABELS)).x0, expected)


UNET = UNet2DModel(
    sample_size=8,
    block_out_channels=(8,),
    norm_num_groups=4,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    num_class_embeds=3,
)


@pytest.mark.parametrize(
    ("network", "classes", "options", "argument"),
    [
        (MLPDenoiser([2], 8, 1), None, {"guidance_scale": "2"}, "guidance_scale"),
        (MLPDenoiser([2], 8, 1, 6), 6, {"guidance_scale": "2"}, "guidance_scale"),
        (UNET, 3, {"guidance_scale": "2"}, "guidance_scale"),
        (Told(), 6, {"guidance_interval": (1, 2)}, "guidance_interval"),
        (Told(), 6, {"guidance_scale": "2", "guidance_interval": (3, 2)}, "guidance_interval"),
        (Told(), 6, {"guidance_scale": "2", "guidance_interval": (1, 5)}, "guidance_interval"),
        (Told(), 6, {"guidance_scale": "2", "guidance_interval": (3,)}, "guidance_interval"),
    ],
)
def test_refused(network: nn.Module, classes: int | None, options: Any, argument: str) -> None:
    """Of a network without a null class only if no row is given for it."""
    ddim = DDIM.from_schedule(cosine_schedule(T), "sample")
    teacher = Teacher(network, ddim, (2,), class_rows(classes))
    with pytest.raises(InputError) as raised:
        teacher.guided(GuidanceOptions(**options))
    assert raised.value.argument == argument


def test_a_null_row_may_be_given_for_a_network_without_one() -> None:
    plain = replace(told(), guidance=None)
    assert plain.guided(GuidanceOptions(guidance_scale="2"), NULL).guidance is not None


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "two", "2,1", ""])
def test_a_scale_is_a_number(wrong: str) -> None:
    with pytest.raises(InputError, match="guidance_scale"):
        GuidanceOptions(guidance_scale=wrong)


def test_nothing_told_to_a_guided_denoiser_is_refused() -> None:
    with pytest.raises(InputError, match="condition"):
        told().denoiser(Z, 1)


@pytest.mark.parametrize(
    ("network", "shape", "given"),
    [
        ("mlp", (1,), {"hidden_size": 16, "num_layers": 1, "num_iterations": 150}),
        ("unet", (1, 8, 8), {"block_out_channels": (16,), "num_iterations": 100}),
        ("dit", (1, 8, 8), {"hidden_size": 16, "num_layers": 1, "num_iterations": 150}),
    ],
)
def test_a_teacher_trained_without_some_labels_is_read_with_its_null_class(
    tmp_path: Path, network: Any, shape: tuple[int, ...], given: dict[str, Any]
) -> None:
    """Two clean samples, a class each: told nothing, pure noise is either, and x̂ their mean."""
    pattern = torch.linspace(2, -2, math.prod(shape)).view(shape)
    data = torch.stack([pattern, -pattern]).repeat(8, *(1 for _ in shape))
    optimization = OptimizationConfig(
        train_batch_size=32, learning_rate=1e-2, checkpointing_steps=0
    )
    config = TeacherConfig(
        network=network,
        validation_fraction=0,
        label_dropout=0.3,
        optimization=optimization,
        **given,
    )
    accelerator = make_accelerator(optimization, cpu=True)
    labels = torch.tensor([0, 1]).repeat(8)
    for _ in train_teacher(config, data, labels, accelerator, tmp_path):
        pass
    teacher = load_teacher(tmp_path / "teacher", 4)
    assert teacher.num_classes == 2
    z = torch.zeros(3, *shape)
    estimates = teacher.student_denoiser(z, 4, as_condition(torch.tensor([0, 1, 2]))).x0
    shares = (estimates * pattern).flatten(1).sum(dim=1) / pattern.square().sum()
    torch.testing.assert_close(shares, torch.tensor([1.0, -1.0, 0.0]), atol=0.3, rtol=0)
    guided = teacher.guided(GuidanceOptions(guidance_scale="2"))
    far = guided.denoiser(z[:1], 4, as_condition(torch.tensor([0]))).x0
    null = teacher.student_denoiser(z[:1], 4, as_condition(torch.tensor([2]))).x0
    torch.testing.assert_close(far, 2 * estimates[:1] - null, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_teacher_trained_with_every_label_cannot_be_guided(tmp_path: Path, network: Any) -> None:
    optimization = OptimizationConfig(train_batch_size=4, checkpointing_steps=0)
    config = TeacherConfig(
        network=network,
        hidden_size=8,
        num_layers=1,
        block_out_channels=(8, 8),
        num_iterations=1,
        optimization=optimization,
    )
    accelerator = make_accelerator(optimization, cpu=True)
    data, labels = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    for _ in train_teacher(config, data, labels, accelerator, tmp_path):
        pass
    teacher = load_teacher(tmp_path / "teacher", 4)
    assert teacher.num_classes == 3
    with pytest.raises(InputError, match="label_dropout"):
        teacher.guided(GuidanceOptions(guidance_scale="2"))


def test_a_null_class_that_is_not_the_last_is_refused(tmp_path: Path) -> None:
    network = make_unet((1, 8, 8), (8, 8), 3, null_class=True)
    network.register_to_config(_null_class=1)
    network.save_pretrained(tmp_path / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match="_null_class"):
        load_teacher(tmp_path, 4)


def test_labels_cannot_be_left_out_where_there_are_none(tmp_path: Path) -> None:
    config = TeacherConfig(label_dropout=0.1)
    accelerator = make_accelerator(config.optimization, cpu=True)
    with pytest.raises(InputError, match="label_dropout"):
        train_teacher(config, torch.zeros(2, 1, 8, 8), None, accelerator, tmp_path)
