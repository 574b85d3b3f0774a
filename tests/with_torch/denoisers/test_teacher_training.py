"""Training a teacher: what it learns, what it writes, and that it goes on where it was."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from diffusers import DDIMPipeline, DDPMPipeline

from opmerge import cosine_schedule
from opmerge.clock import time_limit
from opmerge.denoisers.inputs import split_rows
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import check_plan_fits, load_teacher
from opmerge.denoisers.teacher_training import (
    TeacherConfig,
    TeacherRecord,
    denoising_loss,
    make_network,
    make_scheduler,
    train_teacher,
)
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.schedules import (
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)
from opmerge.settings.distillation import OptimizationConfig

DATA = torch.tensor([[2.0, -2.0], [-2.0, 2.0]]).reshape(2, 1, 1, 2).repeat(8, 1, 1, 1)
LABELS = torch.tensor([0, 1]).repeat(8)


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(optimization: dict[str, Any] | None = None, **config: Any) -> TeacherConfig:
    given: dict[str, Any] = {
        "train_batch_size": 8,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 0,
        **(optimization or {}),
    }
    config = {
        "hidden_size": 16,
        "num_layers": 1,
        "num_iterations": 6,
        "validation_steps": 2,
        **config,
    }
    return TeacherConfig(**config, optimization=OptimizationConfig(**given))


def train(
    folder: Path, config: TeacherConfig, labels: Any = None, **given: Any
) -> list[TeacherRecord]:
    accelerator = make_accelerator(config.optimization, cpu=True)
    data = given.pop("data", DATA)
    return list(train_teacher(config, data, labels, accelerator, folder, **given))


def weights_in(folder: Path) -> dict[str, Any]:
    return load_teacher(folder / "teacher", 1).network.state_dict()


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, weight in one.items():
        assert torch.equal(weight, other[key]), key


@pytest.mark.parametrize("num_steps", [1, 32, 1024])
def test_the_scheduler_cuts_into_the_cosine_schedule_of_the_theory(num_steps: int) -> None:
    ddim = DDIM.from_scheduler(make_scheduler(TeacherConfig()), num_steps)
    expected = cosine_schedule(num_steps)
    # A float32 factor 1 - beta is off by a uniform error of up to 2^-25 (2^-24 below 1/2), and
    # four standard deviations of 1024 such errors are 4 sqrt(1024 / 3) 2^-25 = 2.2e-6. Squares
    # are compared because sigma is a square root that magnifies this near 0.
    np.testing.assert_allclose(ddim.alphas.numpy() ** 2, expected.alphas**2, atol=2.2e-6)
    np.testing.assert_allclose(ddim.sigmas.numpy() ** 2, expected.sigmas**2, atol=2.2e-6)
    assert ddim.alphas[-1] == 0
    assert ddim.alphas[0] == 1
    stride = 1024 // num_steps
    assert ddim.timesteps[1:].tolist() == list(range(stride - 1, 1024, stride))


@pytest.mark.parametrize(
    ("name", "num_train", "make"),
    [
        ("nichol-dhariwal", 1024, nichol_dhariwal_schedule),
        ("linear", 1000, linear_schedule),
        ("scaled-linear", 1000, scaled_linear_schedule),
    ],
)
def test_other_schedules_are_cut_too(name: Any, num_train: int, make: Any) -> None:
    config = TeacherConfig(schedule=name, num_train_timesteps=num_train)
    ddim = DDIM.from_scheduler(make_scheduler(config), 8)
    np.testing.assert_allclose(ddim.alphas.numpy() ** 2, make(8).alphas ** 2, atol=2.2e-6)


def test_a_teacher_of_flow_matching_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    """It learns its two points, and diffusers' own pipeline draws what we draw."""
    config = settings(
        {"learning_rate": 1e-2, "ema_decay": 0.9}, num_iterations=300, schedule="flow"
    )
    train(tmp_path, config)
    teacher = load_teacher(tmp_path / "teacher", 8)
    ddim = teacher.ddim
    assert ddim.prediction_type == "flow_prediction"
    torch.testing.assert_close(ddim.alphas + ddim.sigmas, torch.ones(9))
    torch.testing.assert_close(ddim.sigmas[1:], torch.linspace(1 / 1024, 1, 8))
    noise = initial_noise((1, 1, 2), 64, seed=0)
    samples = teacher.sample(noise)
    nearest = torch.cdist(samples.flatten(1), DATA.flatten(1)).min(1).values
    apart = torch.cdist(DATA.flatten(1), DATA.flatten(1)).max()
    assert nearest.median() < 0.15 * apart
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "teacher", local_files_only=True)
    scheduler, z = pipeline.scheduler, noise
    scheduler.set_timesteps(8)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            z = scheduler.step(pipeline.unet(z, timestep).sample, timestep, z).prev_sample
    torch.testing.assert_close(samples, z, rtol=1e-5, atol=1e-5)


def test_a_teacher_learns_its_classes_and_fits_the_plan_of_the_theory(tmp_path: Path) -> None:
    config = settings({"learning_rate": 1e-2, "ema_decay": 0.9}, num_iterations=200)
    records = train(tmp_path, config, LABELS)
    assert [record.iteration for record in records] == list(range(1, 201))
    rates = [record.learning_rate for record in records]
    expected = [0.5e-2 * (1 + math.cos(math.pi * done / 200)) for done in range(200)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-12)
    teacher = load_teacher(tmp_path / "teacher", 16)
    assert (teacher.sample_shape, teacher.num_classes) == ((1, 1, 2), 2)
    check_plan_fits(teacher, cosine_schedule(16))
    labels = LABELS.repeat(4)
    samples = teacher.sample(initial_noise((1, 1, 2), len(labels), seed=0), labels)
    # Nearer to the one point of its class than to that of the other.
    assert torch.equal((samples[:, 0, 0, 0] < samples[:, 0, 0, 1]).long(), labels)


@pytest.mark.parametrize(
    ("prediction_type", "schedule", "expected", "deviation"),
    [
        # A new network says 0, so its loss is the mean square of the target, for data of 3s:
        # of 2 n noise values 1 ± sqrt(2 / 2n); of x_0 9; of v = alpha ε - 3 sigma, with the angle
        # uniform on the quarter circle, (1 + 9) / 2 ± sqrt(Var / n) at most, where
        # Var = 3 (3/8) + 6 · 9 (1/8) + 81 (3/8) - 5² = 13.25.
        ("epsilon", "linear", 1.0, math.sqrt(1 / 4096)),
        ("sample", "cosine", 9.0, 1e-6),
        ("v_prediction", "cosine", 5.0, math.sqrt(13.25 / 4096)),
    ],
)
def test_the_first_loss_is_the_mean_square_of_the_target(
    tmp_path: Path, prediction_type: Any, schedule: Any, expected: float, deviation: float
) -> None:
    config = settings(
        {"train_batch_size": 4096},
        prediction_type=prediction_type,
        schedule=schedule,
        num_iterations=1,
    )
    (record,) = train(tmp_path, config, data=torch.full((5, 1, 1, 2), 3.0))
    assert float(record.loss) == pytest.approx(expected, abs=4 * deviation)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_one_point_is_learned_and_sampled(tmp_path: Path, prediction_type: Any) -> None:
    point = torch.tensor([1.0, -1.0, 0.5]).reshape(1, 3)
    config = settings(
        {"learning_rate": 1e-2, "train_batch_size": 64},
        prediction_type=prediction_type,
        num_iterations=300,
        validation_fraction=0.0,
    )
    records = train(tmp_path, config, data=point)
    samples = load_teacher(tmp_path / "teacher", 16).sample(initial_noise((3,), 20, seed=0))
    # Nearer than the origin is; an error of sign would land at -point, four times as far.
    assert float((samples - point).square().mean()) < float(point.square().mean())
    assert float(records[-1].loss) < 0.1 * float(records[0].loss)


def test_the_moving_average_is_what_is_written(tmp_path: Path) -> None:
    runs = {}
    for name, count, decay in [("one", 1, 0.0), ("two", 2, 0.0), ("average", 2, 0.999)]:
        config = settings({"ema_decay": decay, "lr_scheduler": "constant"}, num_iterations=count)
        train(tmp_path / name, config)
        runs[name] = weights_in(tmp_path / name)
    # EMAModel's decay at its n-th step is (n / (n + 9)) up to the one asked for: 0, then 2/11.
    for key, average in runs["average"].items():
        one, two = runs["one"][key], runs["two"][key]
        torch.testing.assert_close(average, two + 2 / 11 * (one - two))
        assert not torch.equal(average, two)


@pytest.mark.parametrize(
    ("num_samples", "fraction", "held_out"),
    [(16, 0.25, 4), (2, 0.1, 1), (2, 0.9, 1), (5, 0.0, 0), (1, 0.0, 0)],
)
def test_every_sample_is_trained_on_or_held_out(
    num_samples: int, fraction: float, held_out: int
) -> None:
    trained, held = split_rows(num_samples, fraction, seed=3)
    assert len(held) == held_out
    assert sorted([*trained.tolist(), *held.tolist()]) == list(range(num_samples))


def test_held_out_samples_are_never_trained_on(tmp_path: Path) -> None:
    config = settings(num_iterations=30, validation_fraction=0.5, validation_steps=30)
    _, held = split_rows(len(DATA), 0.5, seed=0)
    data = DATA.clone()
    data[held] = torch.nan  # 30 batches of 8 from 16 rows would meet one but for luck of 2^-240
    records = train(tmp_path, config, data=data)
    assert all(math.isfinite(record.loss) for record in records)
    assert math.isnan(records[-1].validation_loss or 0.0)


def test_the_weights_of_the_least_held_out_loss_are_kept(tmp_path: Path) -> None:
    # Two unlike points and a fast constant rate: what is learned of one spoils the other.
    data = DATA[:2] * torch.tensor([1.0, -0.5]).reshape(2, 1, 1, 1)
    optimization = {"learning_rate": 0.02, "lr_scheduler": "constant"}
    config = settings(optimization, num_iterations=60, validation_fraction=0.5)
    records = train(tmp_path / "whole", config, data=data)
    looked = {r.iteration: r.validation_loss for r in records if r.validation_loss is not None}
    assert list(looked) == list(range(2, 61, 2))
    best = min(looked, key=lambda iteration: looked[iteration])
    assert best < 60
    assert records[-1].best == best
    shorter = config.replaced(num_iterations=best, validation_steps=best)  # one look, at the end
    train(tmp_path / "short", shorter, data=data)
    assert_same_weights(weights_in(tmp_path / "whole"), weights_in(tmp_path / "short"))


@pytest.mark.parametrize(("held_out", "draws"), [(5, 512), (64, 4096)])
def test_few_samples_are_looked_at_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: int, draws: int
) -> None:
    """64 times each, in whole batches of 256; whoever waits hears of each batch."""
    sizes, heard = [], []

    def loss(network: Any, samples: Any) -> Any:
        sizes.append(len(samples.z))
        return denoising_loss(network, samples)

    monkeypatch.setattr("opmerge.denoisers.teacher_training.denoising_loss", loss)
    data = torch.randn(2 * held_out, 1, 4, 4)
    config = settings(num_iterations=1, validation_fraction=0.5)
    with time_limit(tell=lambda done, doing: heard.append(doing)):
        train(tmp_path, config, data=data)
    assert sum(sizes[1:]) == draws  # behind the one batch that was trained on
    assert len(heard) == draws / 256


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_looking_at_the_held_out_loss_changes_nothing(tmp_path: Path, ema_decay: float) -> None:
    often, once = (
        settings({"ema_decay": ema_decay}, validation_fraction=0.25, validation_steps=steps)
        for steps in (1, 6)
    )
    losses = [
        [float(record.loss) for record in train(tmp_path / str(number), config)]
        for number, config in enumerate((often, once))
    ]
    assert losses[0] == losses[1]


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    found = []
    for number, (ours, theirs) in enumerate([(0, 1), (0, 2), (5, 1)]):
        torch.manual_seed(theirs)
        records = train(tmp_path / str(number), settings({"seed": ours}), LABELS)
        found.append((weights_in(tmp_path / str(number)), [float(r.loss) for r in records]))
    assert_same_weights(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert all(one != other for one, other in zip(found[0][1], found[2][1], strict=True))
    assert len(set(found[0][1])) == 6


def test_iterations_have_batches_of_their_own_and_parts_make_up_the_whole(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", settings({"train_batch_size": 8}), LABELS)
    optimization = {"train_batch_size": 2, "gradient_accumulation_steps": 4}
    parts = train(tmp_path / "parts", settings(optimization), LABELS)
    for one, other in zip(whole, parts, strict=True):
        assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-5)
    for key, weight in weights_in(tmp_path / "whole").items():
        torch.testing.assert_close(weights_in(tmp_path / "parts")[key], weight)


def _train_on_two(folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # accelerate warns of processes that do not say
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from this process
    train(Path(folder), settings({"train_batch_size": 4}), LABELS)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    train(tmp_path / "one", settings({"train_batch_size": 8}), LABELS)
    debug_launcher(_train_on_two, (str(tmp_path / "two"),), num_processes=2)
    for key, weight in weights_in(tmp_path / "one").items():
        torch.testing.assert_close(weights_in(tmp_path / "two")[key], weight)


RESUMED = {"checkpointing_steps": 3, "ema_decay": 0.9}


def _killed(folder: str) -> None:
    config = settings(RESUMED, num_iterations=8)
    accelerator = make_accelerator(config.optimization, cpu=True)
    for record in train_teacher(config, DATA, LABELS, accelerator, Path(folder)):
        if record.iteration == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_killed, args=(str(tmp_path / "killed"),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint-3"]
    config = settings(RESUMED, num_iterations=8)
    torch.manual_seed(77)
    rest = train(tmp_path / "killed", config, LABELS, resume="latest")
    full = train(tmp_path / "full", config, LABELS)
    assert [record.iteration for record in rest] == [4, 5, 6, 7, 8]
    for one, other in zip(rest, full[3:], strict=True):
        assert torch.equal(one.loss, other.loss)
        assert one.learning_rate == other.learning_rate
    assert_same_weights(weights_in(tmp_path / "killed"), weights_in(tmp_path / "full"))


def test_a_teacher_that_cannot_be_written_is_not_trained_again(tmp_path: Path) -> None:
    """Its run is shorter than the steps of checkpoints; the best weights are kept too."""
    config = settings({"checkpointing_steps": 500, "ema_decay": 0.9}, validation_fraction=0.25)
    in_the_way = tmp_path / ".teacher.unfinished"
    in_the_way.write_text("a file in the way")
    message = r"teacher` cannot be written \(File exists\); make room and resume; what is finished"
    with pytest.raises(InputError, match=message):
        train(tmp_path, config)
    in_the_way.unlink()
    assert train(tmp_path, config, resume="latest") == []
    unkept = config.replaced(optimization=config.optimization.replaced(checkpointing_steps=0))
    train(tmp_path / "whole", unkept)
    assert_same_weights(weights_in(tmp_path), weights_in(tmp_path / "whole"))
    assert not list((tmp_path / "whole").glob("checkpoint-*"))


@pytest.mark.parametrize("change", ["seed", "labels", "data", "config"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: str) -> None:
    train(tmp_path, settings(RESUMED), LABELS)
    other = settings(
        {**RESUMED, "seed": int(change == "seed")}, num_layers=1 + (change == "config")
    )
    labels = 1 - LABELS if change == "labels" else LABELS
    with pytest.raises(InputError, match="checkpoint-6 is of another run"):
        train(tmp_path, other, labels, data=DATA + (change == "data"), resume="latest")


def test_without_a_checkpoint_resuming_starts_anew(tmp_path: Path) -> None:
    assert len(train(tmp_path, settings(), resume="latest")) == 6


def test_nothing_is_written_before_the_end(tmp_path: Path) -> None:
    config = settings()
    accelerator = make_accelerator(config.optimization, cpu=True)
    run = train_teacher(config, DATA, None, accelerator, tmp_path / "run")
    for _ in range(6):
        next(run)
        assert not (tmp_path / "run" / "teacher").exists()
    with pytest.raises(StopIteration):
        next(run)
    assert (tmp_path / "run" / "teacher" / "model_index.json").is_file()
    with pytest.raises(InputError, match=r"pass .*/run/teacher$"):
        load_teacher(tmp_path / "run", 4)


@pytest.mark.parametrize("every", [1, 0])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_iteration(
    tmp_path: Path, every: int
) -> None:
    optimization = {
        "learning_rate": 1e20,
        "lr_scheduler": "constant",
        "optimizer": "sgd",
        "max_grad_norm": 0.0,
        "checkpointing_steps": every,
    }
    config = settings(optimization, num_iterations=50)
    accelerator = make_accelerator(config.optimization, cpu=True)
    records: list[TeacherRecord] = []
    with pytest.raises(InputError, match=r"lower it or clip with `max_grad_norm`") as caught:
        records.extend(train_teacher(config, DATA, None, accelerator, tmp_path))
    losses = [float(record.loss) for record in records]
    assert math.isfinite(losses[0])
    first_bad = next((n for n, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    # With a checkpoint an iteration the bad one is found before it is handed out.
    bad = len(losses) + 1 if first_bad is None else first_bad
    assert f"they are not at iteration {bad}, got 1e+20" in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = [path.name for path in tmp_path.glob("checkpoint-*")]
    assert (f"checkpoint-{bad - 1}" in kept) == bool(every)
    assert f"checkpoint-{bad}" not in kept
    assert not (tmp_path / "teacher").exists()


def test_a_unet_is_trained_and_sampled_by_diffusers(tmp_path: Path) -> None:
    data = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).repeat(4, 1, 1, 1)
    config = settings(network="unet", block_out_channels=(8, 16), num_iterations=2)
    before = make_network(config, (1, 8, 8)).state_dict()
    train(tmp_path, config, data=data)
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "teacher", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        2, torch.Generator().manual_seed(0), num_inference_steps=4, output_type="pt"
    ).images
    z = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    samples = load_teacher(tmp_path / "teacher", 4).sample(z)
    assert torch.equal((samples / 2 + 0.5).clamp(0, 1), images)
    after = pipeline.unet.state_dict()
    assert any(not torch.equal(after[key], weight) for key, weight in before.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"network": "resnet"}, "`network` must be one of mlp, unet, dit, got resnet"),
        ({"schedule": "sigmoid"}, "`schedule` must be one of cosine, nichol-dhariwal, linear"),
        ({"prediction_type": "x"}, "`prediction_type` must be one of epsilon, sample"),
        ({"hidden_size": 0}, "`hidden_size` must be >= 1, got 0"),
        ({"num_layers": 0}, "`num_layers` must be >= 1, got 0"),
        ({"num_iterations": 0}, "`num_iterations` must be >= 1, got 0"),
        ({"validation_steps": 0}, "`validation_steps` must be >= 1, got 0"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be in [0, 1), got 1"),
        ({"num_train_timesteps": 0}, "`num_train_timesteps` must be >= 1, got 0"),
        (
            {"block_out_channels": (16, 20)},
            "`block_out_channels` must be multiples of 8, got (16, 20)",
        ),
        (
            {"prediction_type": "flow_prediction"},
            "`prediction_type` must not be flow_prediction with cosine, got flow_prediction",
        ),
        (
            {"prediction_type": "sample", "schedule": "flow"},
            "`prediction_type` must be flow_prediction with flow, got sample",
        ),
        (
            {"prediction_type": "epsilon"},
            "`prediction_type` must not be epsilon where alpha_T = 0",
        ),
        ({"network": "unet"}, "unet must come with square images of 8 to 64 pixels a side"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_trained(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        train_teacher(settings(**config), DATA, None, Accelerator(cpu=True), tmp_path)
