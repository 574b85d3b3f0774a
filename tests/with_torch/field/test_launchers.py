"""Variables of launchers and of accelerate: what a launcher must say counts, nothing else does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation import Distillation, make_accelerator
from opmerge.distillation.pipeline import load_student, save_student
from opmerge.errors import InputError
from opmerge.launcher import Place, is_first, place, sharding
from opmerge.loop import Trainer
from opmerge.plans import build_strategy
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]
Weights = dict[str, torch.Tensor]

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerator")

ITERATIONS = 4


def command(teacher: Path, folder: Path, *more: object) -> list[object]:
    return [
        *("distill", "digits", "--teacher", teacher, "--plan", "vanilla", "--steps", 4),
        *("--num_iterations", ITERATIONS, "--train_batch_size", 16, "--checkpointing_steps", 2),
        *("--learning_rate", 0.01, "--lr_warmup_steps", 0, "--output_dir", folder, *more),
    ]


def weights(folder: Path) -> Weights:
    found: Weights = load_file(folder / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    return found


def furthest(one: Weights, other: Weights) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Weights:
    """The student that no variable had a say in; it is not its teacher."""
    from opmerge.cli import main

    folder = tmp_path_factory.mktemp("expected")
    assert main([*map(str, command(teacher, folder))]) == 0
    found = weights(folder)
    moved = furthest(found, load_file(teacher / "unet" / "diffusion_pytorch_model.safetensors"))
    assert moved > 1e-3
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "100"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "many"},
        {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
        {"ACCELERATE_DYNAMO_BACKEND": "nonsense", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "maybe"},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        {"ACCELERATE_MIXED_PRECISION": "nonsense", "ACCELERATE_FP8_BACKEND": "nonsense"},
        {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_MEGATRON_LM": "true"},
        {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "4"},
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "nonsense"},  # of one process
        {"ACCELERATE_TORCH_DEVICE": "quantum", "ACCELERATE_DEBUG_MODE": "maybe"},
        {"ACCELERATE_USE_CPU": "yes"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "no.where.invalid"},
        {"RANK": "1"},
        {"RANK": "first", "LOCAL_RANK": "nonsense"},
        {"LOCAL_RANK": "0"},
        {"PMI_SIZE": "1", "PMI_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "http"},
    ],
    ids=lambda variables: " ".join(f"{name}={value}" for name, value in variables.items()),
)
def test_settings_of_ours_win(
    variables: dict[str, str],
    teacher: Path,
    expected: Weights,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
    tmp_path: Path,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, err = run(*command(teacher, tmp_path))
    assert status == 0, err
    difference = furthest(weights(tmp_path), expected)
    seen(f"{variables}", "exit 0, the same student", f"exit 0, weights differ by {difference}")
    assert difference == 0
    assert "written: " in out


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"PMI_SIZE": "2"}, "PMI_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU"),
    ],
)
def test_what_a_launcher_left_half_said_is_named(
    variables: dict[str, str],
    name: str,
    teacher: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
    tmp_path: Path,
) -> None:
    for each, value in variables.items():
        monkeypatch.setenv(each, value)
    status, out, err = run(*command(teacher, tmp_path / "run"))
    seen(f"{variables}", f"exit 2, one line that names {name}", f"exit {status}, {err.strip()}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert name in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "1"},
        {"PMI_SIZE": "3", "PMI_RANK": "2", "MPI_LOCALRANKID": "1"},
        {
            "OMPI_COMM_WORLD_SIZE": "3",
            "OMPI_COMM_WORLD_RANK": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        },
    ],
)
def test_what_every_launcher_says_is_read(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    seen(f"{variables}", Place(2, 3, 1), place())
    assert place() == Place(2, 3, 1)
    assert not is_first()


def test_fsdp_is_configured_by_its_launcher(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    assert sharding() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    found = sharding()
    assert found is not None
    seen("FSDP_VERSION=2", 2, found.fsdp_version)
    assert found.fsdp_version == 2
    monkeypatch.setenv("FSDP_VERSION", "latest")
    with pytest.raises(InputError, match="ACCELERATE_USE_FSDP"):
        sharding()


def test_a_run_under_a_compiler_goes_on_without_it(
    teacher: Path,
    expected: Weights,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    assert run(*command(teacher, tmp_path))[0] == 0
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    shutil.rmtree(tmp_path / "checkpoint-4")
    shutil.rmtree(tmp_path / "student")
    status, _, err = run(*command(teacher, tmp_path, "--resume_from_checkpoint", "latest"))
    assert status == 0, err
    difference = furthest(weights(tmp_path), expected)
    seen("resumed without the compiler", "the same student", f"weights differ by {difference}")
    assert difference == 0


def distilled(teacher: Any, accelerator: Accelerator, folder: Path, resume: bool) -> Weights:
    """The saved student of some iterations in Python, on noise and a Gaussian's samples."""
    settings = OptimizationConfig(train_batch_size=16, checkpointing_steps=2)
    config = DistillationConfig(num_iterations=ITERATIONS, optimization=settings)
    data = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    given = teacher, build_strategy("vanilla", 4), DataInputs(data), config
    run = Distillation(*given, accelerator, folder)
    assert run.resume() == (2 if resume else 0)
    for _ in run.run():
        pass
    save_student(run.student(), folder / "student", teacher)
    assert len(load_student(folder / "student").jumps) == 1
    return weights(folder)


def wrapped(network: torch.nn.Module, how: str) -> torch.nn.Module:
    """A network as a compiler, several devices or both hold it."""
    if "parallel" in how:
        network = torch.nn.DataParallel(network)
    return torch.compile(network, backend="eager") if "compiled" in how else network


@pytest.mark.parametrize("how", ["compiled", "parallel", "compiled parallel"])
def test_wrapped_networks_are_saved_and_resumed(
    how: str, teacher: Path, seen: Seen, tmp_path: Path
) -> None:
    own = make_accelerator(OptimizationConfig())
    plain = load_teacher(teacher, 4)
    expected = distilled(plain, own, tmp_path / "plain", resume=False)
    folder = tmp_path / "other"
    # as people make them, with settings that are not those of the run
    theirs = Accelerator(dynamo_backend="eager", gradient_accumulation_steps=7, cpu=True)
    other = type(plain)(
        wrapped(plain.network, how),
        **{name: value for name, value in vars(plain).items() if name in PARTS},
    )
    differences = [furthest(distilled(other, theirs, folder, resume=False), expected)]
    shutil.rmtree(folder / "checkpoint-4")
    differences.append(furthest(distilled(other, theirs, folder, resume=True), expected))
    seen(f"a teacher that is {how}", "the same student, twice", f"weights differ by {differences}")
    assert differences == [0, 0]


PARTS = ("ddim", "sample_shape", "needs", "scheduler_config", "folder")


def test_a_network_in_training_is_never_compiled_but_by_setting() -> None:
    accelerator = Accelerator(dynamo_backend="eager", cpu=True)
    trainer = Trainer(accelerator, torch.nn.Linear(2, 2), OptimizationConfig(), 1)
    assert type(trainer.network) is torch.nn.Linear


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCELERATE_LOG_LEVEL", "nonsense", "ACCELERATE_LOG_LEVEL"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "HF_HUB_ETAG_TIMEOUT"),
        ("TORCH_LOGS", "nonsense", "TORCH_LOGS"),
        ("TQDM_MININTERVAL", "often", "TQDM_MININTERVAL"),
        ("PYTHONOPTIMIZE", "2", "cannot be imported here"),  # it reads its own docstrings
    ],
)
def test_a_library_that_its_surroundings_stop_is_one_line(
    name: str, value: str, said: str, teacher: Path, program: Any, seen: Seen, tmp_path: Path
) -> None:
    done = program(*command(teacher, tmp_path / "run"), env={name: value})
    last = done.stderr.strip().splitlines()[-1]
    seen(f"{name}={value}", f"exit 2, {said}", f"exit {done.returncode}, {last}")
    assert done.returncode == 2, done.stderr
    assert said in last
    assert not (tmp_path / "run").exists()


def test_torch_is_used_whatever_other_programs_use(
    teacher: Path, expected: Weights, program: Any, seen: Seen, tmp_path: Path
) -> None:
    """diffusers leaves torch out where one of its variables says another library, or none."""
    done = program(*command(teacher, tmp_path), env={"USE_TF": "1", "USE_TORCH": "0"})
    seen("USE_TF=1 USE_TORCH=0", "exit 0, the same student", f"exit {done.returncode}")
    assert done.returncode == 0, done.stderr
    assert furthest(weights(tmp_path), expected) == 0
