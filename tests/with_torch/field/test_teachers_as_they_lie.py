"""Teachers as repositories have them: what diffusers loads is loaded, with the same weights."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from torch_helpers import edit_json, scrambled

from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.schedules import diffusers_schedule

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

INDEX, SCHEDULER = "model_index.json", "scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NUM_STEPS = 4


def unet() -> UNet2DModel:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes: dict[str, Any] = {"sample_size": 8, "in_channels": 1, "out_channels": 1}
    channels: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    return scrambled(UNet2DModel(**sizes, **channels, **blocks, layers_per_block=1))


def saved(folder: Path, kind: torch.dtype = torch.float32, **options: Any) -> Path:
    pipeline = DDPMPipeline(unet().to(kind), DDPMScheduler(clip_sample=False))
    pipeline.save_pretrained(folder, **options)
    return folder


def flatten(folder: Path, *parts: str) -> None:
    for part in parts:
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()


def side_by_side(folder: Path) -> str | None:
    """As google/ddpm-cifar10-32 lies."""
    flatten(saved(folder), "unet", "scheduler")
    return None


def network_beside(folder: Path) -> str | None:
    flatten(saved(folder), "unet")
    return None


def scheduler_beside(folder: Path) -> str | None:
    flatten(saved(folder), "scheduler")
    return None


def another_scheduler_above(folder: Path) -> str | None:
    """Diffusers reads that in ``scheduler/``."""
    saved(folder)
    DDPMScheduler(clip_sample=False, beta_end=0.5).save_config(folder)
    return None


def flat_half(folder: Path) -> str | None:
    flatten(saved(folder, torch.float16, variant="fp16"), "unet", "scheduler")
    return "fp16"


def shards(folder: Path) -> str | None:
    saved(folder, max_shard_size="8KB")
    return None


def half_shards(folder: Path) -> str | None:
    saved(folder, torch.float16, variant="fp16", max_shard_size="8KB")
    return "fp16"


def old_half_shards(folder: Path) -> str | None:
    """As diffusers 0.27 to 0.30 named them."""
    half_shards(folder)
    place = folder / "unet"
    content = (place / "diffusion_pytorch_model.safetensors.index.fp16.json").read_text()
    (place / "diffusion_pytorch_model.safetensors.index.fp16.json").unlink()
    shard = re.compile(r"\.fp16(-\d{5}-of-\d{5})")
    for path in list(place.glob("*.fp16-*")):
        path.rename(place / shard.sub(r"\1.fp16", path.name))
    index = place / "diffusion_pytorch_model.safetensors.fp16.index.json"
    index.write_text(shard.sub(r"\1.fp16", content))
    return "fp16"


def both_halves(folder: Path) -> str | None:
    saved(folder, torch.bfloat16, variant="bf16")
    saved(folder, torch.float16, variant="fp16")
    return "fp16"


def both_halves_in_shards(folder: Path) -> str | None:
    saved(folder, torch.bfloat16, variant="bf16", max_shard_size="8KB")
    saved(folder, torch.float16, variant="fp16", max_shard_size="8KB")
    return "fp16"


def bf16_and_a_torn_fp16(folder: Path) -> str | None:
    """Shards without their index are no weights."""
    both_halves_in_shards(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").unlink()
    return "bf16"


def averaged_alone(folder: Path) -> str | None:
    saved(folder, variant="ema")
    return "ema"


def whole_and_half(folder: Path) -> str | None:
    saved(folder, torch.float16, variant="fp16")
    saved(folder)
    return None


LAYOUTS: list[Callable[[Path], str | None]] = [
    side_by_side,
    network_beside,
    scheduler_beside,
    another_scheduler_above,
    flat_half,
    shards,
    half_shards,
    old_half_shards,
    both_halves,
    both_halves_in_shards,
    bf16_and_a_torn_fp16,
    averaged_alone,
    whole_and_half,
]


@pytest.mark.parametrize("lay", LAYOUTS)
def test_what_diffusers_loads(tmp_path: Path, seen: Seen, lay: Callable[[Path], Any]) -> None:
    folder = tmp_path / "model"
    variant = lay(folder)
    given = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    theirs: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers, of old names of shards
        if lay is flat_half:  # whose pipeline diffusers does not load, but its parts
            network: Any = UNet2DModel.from_pretrained(folder, **given)
            theirs = DDPMPipeline(network, DDPMScheduler.from_pretrained(folder))
        else:
            theirs = DiffusionPipeline.from_pretrained(folder, **given)
    teacher = load_teacher(folder, NUM_STEPS)
    expected = {name: weight.float() for name, weight in theirs.unet.state_dict().items()}
    got = teacher.network.state_dict()
    same = [torch.equal(got[name], weight) for name, weight in expected.items()]
    seen(lay.__name__.replace("_", " "), f"{len(expected)} equal tensors", f"{sum(same)}")
    assert got.keys() == expected.keys()
    assert all(same)
    theirs.scheduler.set_timesteps(NUM_STEPS)
    signal = theirs.scheduler.alphas_cumprod[theirs.scheduler.timesteps.flip(0)]
    torch.testing.assert_close(teacher.ddim.alphas[1:] ** 2, signal)
    assert type(load_pipeline(folder, teacher.network)).__name__ == "DDPMPipeline"


@pytest.mark.parametrize("class_name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("rule", ["sigmoid", "laplace", "exp"])
def test_betas_by_any_rule_of_diffusers(rule: str, class_name: str, seen: Seen) -> None:
    """Of the classes that know a rule; others are told its betas."""
    donor = HeunDiscreteScheduler if rule == "exp" else DDPMScheduler
    signal = donor(beta_schedule=rule).alphas_cumprod.double()
    config = {"_class_name": class_name, "beta_schedule": rule, "clip_sample": False}
    schedule = diffusers_schedule(config, NUM_STEPS)
    assert schedule.timesteps is not None
    times = [round(time) for time in schedule.timesteps]
    expected = signal[times].sqrt().tolist()
    got = schedule.alphas[1:].tolist()
    seen(f"{rule} in {class_name}", f"alpha_T {expected[-1]:.4f}", f"{got[-1]:.4f}")
    if class_name != "EulerDiscreteScheduler":  # which is told times between whole ones
        assert got == pytest.approx(expected, rel=1e-4)
    assert got[-1] == pytest.approx(expected[-1], rel=1e-3)
    again = diffusers_schedule(schedule.parameters, NUM_STEPS)
    assert again.alphas.tolist() == schedule.alphas.tolist()


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ({"predict_epsilon": False}, "sample"),
        ({"predict_epsilon": False, "prediction_type": "epsilon"}, "sample"),
        ({"predict_epsilon": True}, "epsilon"),
        ({"predict_epsilon": True, "prediction_type": "v_prediction"}, "v_prediction"),
        ({"predict_epsilon": False, "prediction_type": "v_prediction"}, "v_prediction"),
    ],
)
def test_what_older_configs_say_of_predictions(
    tmp_path: Path, seen: Seen, keys: dict[str, Any], form: str
) -> None:
    """Diffusers before 0.10: ``predict_epsilon: false`` is a network that says x_0."""
    folder = saved(tmp_path / "model")
    place = folder / "scheduler" / SCHEDULER
    config = json.loads(place.read_text())
    del config["prediction_type"]
    place.write_text(json.dumps({**config, **keys}))
    teacher = load_teacher(folder, NUM_STEPS)
    seen(
        " ".join(f"{key}={value}" for key, value in keys.items()),
        form,
        teacher.ddim.prediction_type,
    )
    assert teacher.ddim.prediction_type == form
    edit_json(place, prediction_type=form)
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(teacher.sample(z), load_teacher(folder, NUM_STEPS).sample(z))


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    network = scrambled(MLPDenoiser((8, 8), hidden_size=8, num_layers=1))
    return write_teacher_folder(tmp_path / "teacher", network, DDIMScheduler(clip_sample=False))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("command", ["sample", "distill", "calibrate"])
def test_weights_that_are_not_finite_are_the_teachers_fault(
    perceptron: Path, run: Run, seen: Seen, value: float, command: str
) -> None:
    weights = load_file(perceptron / WEIGHTS)
    weights["proj_in.bias"][1] = value
    save_file(weights, perceptron / WEIGHTS, {"format": "pt"})
    out = perceptron.parent / "out"
    arguments: tuple[object, ...] = ("digits", "--teacher", perceptron, "--output_dir", out)
    if command == "sample":
        arguments = (perceptron, "--output", out / "s.npy")
    plan = ("--plan", "boot") if command == "distill" else ()
    status, _, err = run(command, *arguments, "--steps", NUM_STEPS, *plan)
    seen(f"{command}, a weight {value}", "exit 2, names the weights", f"exit {status}")
    assert status == 2
    assert "must hold finite weights, got proj_in.bias" in err
    assert "learning_rate" not in err
    assert not out.exists()


def test_a_teacher_that_says_nan_of_finite_weights_is_to_blame(
    perceptron: Path, run: Run, seen: Seen
) -> None:
    """Weights so large that products of them overflow."""
    weights = load_file(perceptron / WEIGHTS)
    weights["proj_out.weight"][:] = 3e38
    save_file(weights, perceptron / WEIGHTS, {"format": "pt"})
    out = perceptron.parent / "out"
    arguments = ("digits", "--teacher", perceptron, "--steps", NUM_STEPS, "--plan", "boot")
    few = ("--num_iterations", 12, "--linear_part", "train")
    status, _, err = run("distill", *arguments, *few, "--output_dir", out)
    seen("distill, weights that overflow", "blames the teacher", err.strip()[:60])
    assert status == 2
    assert "`teacher` must lead to finite losses" in err
