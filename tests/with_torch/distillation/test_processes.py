"""Two processes (gloo) train what one does, and go on where one or two stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, debug_launcher
from accelerate.state import AcceleratorState, DistributedType
from test_resume import (
    checkpoints,
    distillation,
    weights,
)

from opmerge.cli.networks import read_samples
from opmerge.data import open_source
from opmerge.denoisers import inputs
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CHANGES: dict[str, Any] = {"network": MLPDenoiser, "checkpoints_total_limit": 99}


def _shard(accelerator: Accelerator) -> None:
    """What accelerate does of itself on devices, where it is configured so: FSDP, version 2."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="no_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # nothing is done to it in place
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP


def _train_on_two(
    folder: str, changes: dict[str, Any], resume: bool, stop: int, shards: bool
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # accelerate warns of processes that do not say
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from this process
    run = distillation(folder, **changes)
    if shards:
        _shard(run.accelerator)
    done = run.resume() if resume else 0
    accelerator = run.accelerator
    assert accelerator.num_processes == 2
    losses = []
    for record in run.run():
        losses.append(accelerator.reduce(record.loss, "mean"))
        if record.step == stop:  # 0 for never
            break
    if accelerator.is_main_process:
        found = {"done": done, "losses": torch.stack(losses), "weights": weights(run)}
        torch.save(found, Path(folder, "found.pt"))
    accelerator.wait_for_everyone()


def on_two(
    folder: Path, resume: bool = False, stop: int = 0, shards: bool = False, **changes: Any
) -> dict[str, Any]:
    """Losses, and weights at the end, of a run on two processes; half the batch on each."""
    given = {**CHANGES, "train_batch_size": 4, **changes}
    debug_launcher(_train_on_two, (str(folder), given, resume, stop, shards), num_processes=2)
    return dict(torch.load(folder / "found.pt"))


def on_one(folder: Path, **changes: Any) -> dict[str, Any]:
    run = distillation(folder, **{**CHANGES, **changes})
    losses = torch.stack([record.loss for record in run.run()])
    return {"losses": losses, "weights": weights(run)}


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Up to the order of float32 sums, which Adam may magnify where a gradient is near 0."""
    torch.testing.assert_close(one["losses"], other["losses"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one["weights"], other["weights"], rtol=1e-3, atol=1e-4)


def test_two_processes_distil_what_one_does_and_go_on(tmp_path: Path) -> None:
    one = on_one(tmp_path / "one")
    whole = on_two(tmp_path / "two")
    assert_close(whole, one)
    stopped = tmp_path / "stopped"
    on_two(stopped, stop=9)
    assert checkpoints(stopped) == [f"checkpoint-{n}" for n in (2, 4, 6, 8)]
    rest = on_two(stopped, resume=True)
    assert rest["done"] == 8
    assert torch.equal(rest["losses"], whole["losses"][8:])
    assert all(torch.equal(a, b) for a, b in zip(rest["weights"], whole["weights"], strict=True))


def test_two_processes_solve_the_linear_parts_that_one_does(tmp_path: Path) -> None:
    """Sums over both, of batches cut in two; pairs are held out by their place in the whole."""
    changes = {"linear_part": "solve", "curriculum": "none", "num_iterations": 3}
    assert_close(on_two(tmp_path / "two", **changes), on_one(tmp_path / "one", **changes))


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_sharded_networks_learn_what_whole_ones_do(tmp_path: Path, lora_rank: int | None) -> None:
    """Weights, gradients, moments and moving averages are halves on each process."""
    changes = {"checkpointing_steps": 0, "lora_rank": lora_rank}
    (tmp_path / "two").mkdir()
    found = on_two(tmp_path / "two", shards=True, **changes)
    assert_close(found, on_one(tmp_path / "one", **changes))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """One process stops, two go on with parts of a quarter, one finishes what two left."""
    whole = on_one(tmp_path / "whole")
    run = distillation(tmp_path / "moved", **CHANGES)
    for record in run.run():
        if record.step == 6:
            break
    moved = {"resume": True, "train_batch_size": 2, "gradient_accumulation_steps": 2}
    second = on_two(tmp_path / "moved", stop=11, **moved)
    assert second["done"] == 4
    last = distillation(tmp_path / "moved", **CHANGES)
    assert last.resume() == 10
    losses = torch.stack([record.loss for record in last.run()])
    found = {"losses": torch.cat([second["losses"][:6], losses]), "weights": weights(last)}
    assert_close(found, {**whole, "losses": whole["losses"][4:]})


def _read_on_two(folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = make_accelerator(OptimizationConfig(), Path(folder), cpu=True)
    rank, rows = accelerator.process_index, np.arange(12.0).reshape(6, 2)

    def batches() -> Iterator[Any]:
        Path(folder, f"read_by_{rank}").touch()
        yield rows

    source = replace(open_source("digits"), num_samples=6, shape=(2,), batches=batches)
    found = read_samples(accelerator, source, Path(folder), (2,))
    assert np.array_equal(found.numpy(), rows)


def test_large_data_are_read_by_the_first_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the other, in a collective operation that gives up after a time."""
    large = partial(inputs.load_samples, memory_limit=0)  # as if they were
    monkeypatch.setattr(inputs, "load_samples", large)
    for _ in range(2):  # written, then compared
        debug_launcher(_read_on_two, (str(tmp_path),), num_processes=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npy", "read_by_0"]
