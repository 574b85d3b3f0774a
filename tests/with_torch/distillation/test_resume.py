"""Runs that are killed, out of room, or diverging: they go on to the same bits, or say why not."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from opmerge import build_strategy, cosine_schedule
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.linear_part import LinearDenoiser
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.executor import Distillation
from opmerge.distillation.pipeline import save_student
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T = 8
DATA = torch.linspace(-2, 2, 64).reshape(16, 4).sin()
NO_ROOM = "cannot be written (File too large); make room and resume; what is finished is kept"


class Dropping(MLPDenoiser):
    """Drops inputs always, so that every call takes from torch's own random numbers."""

    def forward(self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None) -> Any:
        return super().forward(nn.functional.dropout(sample, 0.1), timestep, class_labels)


def distillation(
    folder: Path | str,
    warn: Callable[[str], None] = lambda line: None,
    strategy: str = "progressive",
    network: type[MLPDenoiser] = Dropping,
    data: Tensor = DATA,
    teacher_seed: int = 0,
    cpu: bool = True,
    **changes: Any,
) -> Distillation:
    """Three stages of five iterations, with all that a run may have to remember."""
    settings: dict[str, Any] = {
        "train_batch_size": 8,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "ema_decay": 0.9,
        "checkpointing_steps": 2,
    }
    given = {"num_iterations": 5, "sharing": "round", "curriculum": "linear"}
    for key, value in changes.items():
        (given if key in DistillationConfig.model_fields else settings)[key] = value
    config = DistillationConfig(**given, optimization=OptimizationConfig(**settings))
    torch.manual_seed(teacher_seed)
    denoiser = network((4,), hidden_size=16, num_layers=1)
    nn.init.normal_(denoiser.proj_out.weight, std=0.3)
    teacher = Teacher(denoiser, DDIM.from_schedule(cosine_schedule(T), "v_prediction"), (4,))
    accelerator = make_accelerator(config.optimization, cpu=cpu)
    plan = build_strategy(strategy, T)
    return Distillation(teacher, plan, DataInputs(data), config, accelerator, Path(folder), warn)


def weights(run: Distillation) -> list[Tensor]:
    """Those of the students' networks, and their linear parts."""
    jumps = run.student().jumps
    solved = [j.denoiser.parts[j.start] for j in jumps if isinstance(j.denoiser, LinearDenoiser)]
    found = [w for jump in jumps for w in jump.network.state_dict().values()]
    return found + [values for part in solved for values in part.tensors().values()]


def finish(run: Distillation) -> tuple[list[int], list[Tensor]]:
    """Steps done and final weights."""
    return [record.step for record in run.run()], weights(run)


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def in_a_process(work: Callable[..., object], *arguments: Any) -> int:
    """Exit status of a forked process that does the work."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    return finish(distillation(tmp_path_factory.mktemp("reference")))[1]


def _die_at_file_operation(folder: str, number: int) -> None:
    """Kill this process before the n-th thing that Python does to a checkpoint's files."""
    operations = itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if any("checkpoint-" in str(argument) for argument in arguments):
            done = next(operations)
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if number < 0:
                Path(folder, "count").write_text(str(done), encoding="ascii")

    run = distillation(folder)
    sys.addaudithook(watch)
    finish(run)


def test_a_run_killed_while_it_writes_goes_on_to_the_same_bits(
    tmp_path: Path, reference: list[Tensor]
) -> None:
    assert in_a_process(_die_at_file_operation, str(tmp_path), -1) == 0
    total = int((tmp_path / "count").read_text(encoding="ascii"))
    torn = 0
    for number in range(total // 20, total, max(1, total // 8)):
        folder = tmp_path / str(number)
        assert in_a_process(_die_at_file_operation, str(folder), number) == -signal.SIGKILL
        torn += any(folder.glob(".checkpoint-*.unfinished"))
        warnings: list[str] = []
        run = distillation(folder, warnings.append)
        done = run.resume()
        assert warnings == []  # whatever has its name is whole
        steps, found = finish(run)
        assert steps == list(range(done + 1, 16))
        assert_same(found, reference)
        assert not list(folder.glob(".checkpoint-*"))
    assert torn >= 3  # half-written folders were among them


def _die_after(folder: str, count: int) -> None:
    run = distillation(folder)
    run.resume()
    for _ in itertools.islice(run.run(), count):
        pass
    if run.student().jumps[0].stop:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_run_killed_again_and_again_ends_the_same(
    tmp_path: Path, reference: list[Tensor], count: int
) -> None:
    for _ in range(9):
        if in_a_process(_die_after, str(tmp_path), count) == 0:
            break
    else:
        pytest.fail("the run does not get on")
    run = distillation(tmp_path)
    assert run.resume() == 15
    assert_same(finish(run)[1], reference)


@pytest.mark.parametrize("strategy", ["boot", "consistency", "vanilla"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_every_checkpoint_leads_to_the_same_end(
    tmp_path: Path, strategy: str, ema_decay: float
) -> None:
    """A checkpoint an iteration, all kept, each a place to go on from."""
    changes: dict[str, Any] = {
        "strategy": strategy,
        "ema_decay": ema_decay,
        "num_iterations": 2,
        "sharing": "merge",
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 99,
    }
    steps, whole = finish(distillation(tmp_path, **changes))
    assert len(checkpoints(tmp_path)) == len(steps)
    for step in steps[:: max(1, len(steps) // 3)]:
        run = distillation(tmp_path, **changes)
        assert run.resume(f"checkpoint-{step}") == step
        assert_same(finish(run)[1], whole)


def test_a_run_that_uses_targets_again_goes_on_with_the_same(tmp_path: Path) -> None:
    """In the first pass through them, where some are missing, and in a later one."""
    changes: dict[str, Any] = {
        "network": MLPDenoiser,  # targets are made again, so they must be functions of their batch
        **{"num_iterations": 7, "target_reuse": 3, "strategy": "boot", "curriculum": "none"},
        **{"checkpointing_steps": 1, "checkpoints_total_limit": 99},
    }
    steps, whole = finish(distillation(tmp_path, **changes))
    for step in (1, 2, 4, 6, len(steps) - 1):
        run = distillation(tmp_path, **changes)
        assert run.resume(f"checkpoint-{step}") == step
        assert_same(finish(run)[1], whole)


@pytest.mark.parametrize("reuse", [1, 3])
@pytest.mark.parametrize(("strategy", "sharing"), [("boot", "merge"), ("progressive", "round")])
def test_a_run_whose_linear_parts_are_solved_goes_on_with_the_same(
    tmp_path: Path, strategy: str, sharing: str, reuse: int
) -> None:
    """In the stage that they are of, and of the children after it; nothing is solved again."""
    changes: dict[str, Any] = {
        "network": MLPDenoiser,
        **{"num_iterations": 4, "target_reuse": reuse, "curriculum": "none"},
        **{"strategy": strategy, "sharing": sharing, "linear_part": "solve"},
        **{"checkpointing_steps": 1, "checkpoints_total_limit": 99},
    }
    whole_run = distillation(tmp_path, **changes)
    steps, whole = finish(whole_run)
    assert len(whole) > len(list(whole_run.teacher.network.state_dict()))
    for step in (1, 3, 4, 6, len(steps) - 1, len(steps)):
        run = distillation(tmp_path, **changes)
        assert run.resume(f"checkpoint-{step}") == step
        assert_same(finish(run)[1], whole)


def test_a_run_goes_on_in_other_parts(tmp_path: Path) -> None:
    """How a batch is cut into parts decides nothing, wherever the run stopped."""
    changes: dict[str, Any] = {
        "network": MLPDenoiser,
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 99,
    }
    whole = [float(record.loss) for record in distillation(tmp_path, **changes).run()]
    for step in (3, 4):
        parts = {"train_batch_size": 4, "gradient_accumulation_steps": 2, "checkpointing_steps": 0}
        run = distillation(tmp_path, **{**changes, **parts})
        run.resume(f"checkpoint-{step}")
        # Rounding in float32, which Adam may magnify where a gradient is 0 but for rounding.
        assert [float(record.loss) for record in run.run()] == pytest.approx(whole[step:], rel=1e-3)


def test_a_timed_run_keeps_the_iterations_that_it_found(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"merge_seconds": 0.02, "checkpointing_steps": 1}
    run = distillation(tmp_path, **changes)
    steps, whole = finish(run)
    assert all(count >= 1 for count in run.iterations)
    assert len(steps) == sum(run.iterations)
    (newest,) = (tmp_path / f"checkpoint-{len(steps)}",)
    manifest = json.loads((newest / "checkpoint.json").read_text(encoding="utf-8"))
    assert manifest["state"]["iterations"] == run.iterations
    again = distillation(tmp_path, **changes)
    assert again.resume() == len(steps)
    assert again.iterations == run.iterations
    assert_same(finish(again)[1], whole)


def test_a_run_without_room_stops_and_goes_on_when_there_is_some(
    tmp_path: Path, reference: list[Tensor]
) -> None:
    """A limit on the size of files stands for a full disk: writing fails half-way the same."""
    weights_fit = _size_of_weights(tmp_path / "sizes") + 1  # and the optimizer's moments do not
    for limit in (100, weights_fit):
        folder = tmp_path / str(limit)
        assert in_a_process(_run_out_of_room, str(folder), limit) == 0
        (line,) = (folder / "said").read_text(encoding="utf-8").splitlines()
        assert line == f"`{folder}/checkpoint-4` {NO_ROOM}"
        assert checkpoints(folder) == ["checkpoint-2"]
        assert not list(folder.glob(".checkpoint-*"))
        warnings: list[str] = []
        run = distillation(folder, warnings.append)
        assert run.resume() == 2
        assert warnings == []
        assert_same(finish(run)[1], reference)


@pytest.mark.parametrize("every", [500, 5])  # 5: the last iteration has its checkpoint anyway
def test_a_student_without_room_is_written_when_there_is_some(
    tmp_path: Path, reference: list[Tensor], every: int
) -> None:
    """All of the training is kept, of a run that is shorter than the steps of checkpoints too."""
    assert in_a_process(_no_room_for_the_student, str(tmp_path), every) == 0
    assert (tmp_path / "said").read_text(encoding="utf-8") == f"`{tmp_path}/student` {NO_ROOM}"
    assert not list(tmp_path.glob("*student*"))
    warnings: list[str] = []
    run = distillation(tmp_path, warnings.append, checkpointing_steps=every)
    assert run.resume() == 15
    steps, found = finish(run)
    assert (steps, warnings) == ([], [])
    assert_same(found, reference)
    save_student(run.student(), tmp_path / "student")
    saved = load_file(tmp_path / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    state = run.student().jumps[0].network.state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in state.items())
    has_optimizer = (tmp_path / "checkpoint-15" / "optimizer.bin").exists()
    assert has_optimizer == (every == 5)  # what only the end needs is small


def _no_room_for_the_student(folder: str, every: int) -> None:
    run = distillation(folder, checkpointing_steps=every)
    finish(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        save_student(run.student(), Path(folder, "student"))
    except InputError as error:
        Path(folder, "said").write_text(str(error), encoding="utf-8")


def test_no_checkpoint_is_kept_that_was_not_asked_for(tmp_path: Path) -> None:
    finish(distillation(tmp_path, checkpointing_steps=0))
    assert checkpoints(tmp_path) == []


def _size_of_weights(folder: Path) -> int:
    for _ in itertools.islice(distillation(folder).run(), 3):
        pass
    return (folder / "checkpoint-2" / "model.safetensors").stat().st_size


def _run_out_of_room(folder: str, limit: int) -> None:
    try:
        for record in distillation(folder).run():
            if record.step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    except InputError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
        Path(folder, "said").write_text(str(error), encoding="utf-8")


DIVERGING: dict[str, Any] = {
    "lr_scheduler": "constant",
    "optimizer": "sgd",
    "max_grad_norm": 0.0,
    "ema_decay": 0.0,
}


@pytest.mark.parametrize(
    ("rate", "every"), [(1e4, 1), (1e6, 1), (1e20, 1), (1e20, 3), (3e38, 1), (3e38, 0)]
)
def test_a_run_that_diverges_names_the_merge_and_keeps_what_was_good(
    tmp_path: Path, rate: float, every: int
) -> None:
    changes = {**DIVERGING, "learning_rate": rate, "checkpointing_steps": every}
    run, losses = distillation(tmp_path, num_iterations=40, **changes), list[float]()
    with pytest.raises(InputError, match="lower it or clip with") as caught:
        losses.extend(float(record.loss) for record in run.run())
    # Found among those that were handed out unchecked, or else in the one that was not.
    bad = [number for number, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    first = min(bad, default=len(losses) + 1)
    assert f"they are not at iteration {first} of the merge 8 → 6 and 3 more, got" in str(
        caught.value
    )
    assert len(losses) < 10  # it was looked for after ten at the latest
    assert bool(bad) == (every != 1)
    assert "\n" not in str(caught.value)
    again = distillation(tmp_path, num_iterations=40, **changes)
    done = again.resume()
    assert bool(done) == bool(checkpoints(tmp_path))
    for path in tmp_path.glob("checkpoint-*/model.safetensors"):
        assert all(torch.isfinite(weight).all() for weight in load_file(path).values())


def test_no_student_is_made_of_what_is_not_finite(tmp_path: Path) -> None:
    """The one iteration has a finite loss, and its step leaves infinite weights."""
    changes = {**DIVERGING, "learning_rate": 3e38, "num_iterations": 1, "data": 1e6 * DATA}
    with pytest.raises(
        InputError, match="they are not at iteration 1 of the merge 8 → 6 and 3 more"
    ):
        finish(distillation(tmp_path, **changes))
