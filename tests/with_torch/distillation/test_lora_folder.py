"""Students of adapters on disk, and with the loaders of diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from opmerge import Plan, build_strategy
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation.adapters import fused_student
from opmerge.distillation.executor import Distillation
from opmerge.distillation.pipeline import load_student, save_student
from opmerge.errors import InputError
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T = 4
NOISE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def write_teacher(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = MLPDenoiser((4,), hidden_size=16, num_layers=1)
    nn.init.normal_(network.proj_out.weight, std=0.3)
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    return write_teacher_folder(folder, network, scheduler)


def distilled(teacher: Teacher, nested: Any = None) -> Student:
    plan = build_strategy("boot", T) if nested is None else Plan.from_nested(nested)
    optimization = OptimizationConfig(train_batch_size=8, learning_rate=1e-2, checkpointing_steps=0)
    config = DistillationConfig(num_iterations=5, lora_rank=2, optimization=optimization)
    data = DataInputs(torch.randn(16, 4))
    run = Distillation(teacher, plan, data, config, Accelerator(cpu=True))
    for _ in run.run():
        pass
    return run.student()


@pytest.mark.parametrize("nested", [None, [[4, 3], [2, 1]], [[[4, 3], 2], 1]])
def test_adapters_come_back_to_the_same_bits(tmp_path: Path, nested: Any) -> None:
    """Of one network, of two, and of one beside a step that stays the teacher's."""
    teacher = load_teacher(write_teacher(tmp_path / "teacher"), T)
    student = distilled(teacher, nested)
    folder = save_student(student, tmp_path / "student", teacher)
    again = load_student(folder)
    assert torch.equal(again.sample(NOISE), student.sample(NOISE))
    weights = {w.data_ptr() for jump in again.jumps for w in jump.network.parameters()}
    base = len(list(teacher.network.parameters()))
    adapted = {jump.network for jump in student.jumps if jump.network is not teacher.network}
    assert len(weights) == base + sum(len(network.state_dict()) for network in adapted)
    written = sum(path.stat().st_size for path in folder.glob("adapter_*/*"))
    assert written < sum(weight.nbytes for weight in teacher.network.parameters())
    assert torch.equal(save_and_load(again, teacher, folder).sample(NOISE), student.sample(NOISE))


def save_and_load(student: Student, teacher: Teacher, folder: Path) -> Student:
    return load_student(save_student(student, folder, teacher))


def test_fused_students_need_no_teacher(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "teacher"), T)
    student = distilled(teacher)
    plain = fused_student(student, teacher.network)
    folder = save_student(plain, tmp_path / "student", teacher)
    shutil.rmtree(tmp_path / "teacher")
    torch.testing.assert_close(load_student(folder).sample(NOISE), student.sample(NOISE))


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "teacher"), T)
    folder = save_student(distilled(teacher), tmp_path / "student", teacher)
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(InputError, match=r"must find the teacher of its adapters at .*, got none"):
        load_student(folder)
    write_teacher(tmp_path / "teacher", seed=1)
    with pytest.raises(InputError, match="its adapters are of another base") as error:
        load_student(folder)
    assert "\n" not in str(error.value)


def test_what_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "teacher"), T)
    folder = save_student(distilled(teacher), tmp_path / "student", teacher)
    index, weights = folder / "lora.json", folder / "adapter_1" / "pytorch_lora_weights.safetensors"
    known, tensors = index.read_text(), load_file(weights)
    index.write_text(json.dumps({**json.loads(known), "version": 2}))
    with pytest.raises(InputError):
        load_student(folder)
    index.write_text(known)
    save_file(dict(list(tensors.items())[1:]), weights)
    with pytest.raises(InputError, match="must hold LoRA weights of this teacher"):
        load_student(folder)
    weights.unlink()
    with pytest.raises(InputError):
        load_student(folder)


def test_a_teacher_in_memory_cannot_be_named(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "teacher"), T)
    student = distilled(teacher)
    with pytest.raises(InputError, match="`teacher` must be of a folder that adapters can name"):
        save_student(student, tmp_path / "student", replace(teacher, folder=None))
    with pytest.raises(InputError, match="`teacher` must be given with a student of adapters"):
        save_student(student, tmp_path / "student")
    assert not (tmp_path / "student").exists()
