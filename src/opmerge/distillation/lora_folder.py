"""A student of adapters on disk: its steps, and for each network LoRA weights as diffusers reads.

``lora.json`` names the teacher's folder, which must be there to load the student, and the digest of
its network. Beside it each folder of an adapter can be given to ``load_lora_weights`` of the
teacher's pipeline, if that has it: the card then says how, and where a scheduler of diffusers can
take the steps, it is there too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from opmerge.denoisers.denoiser import LABELS
from opmerge.denoisers.families import config_of, family_of, shape_of
from opmerge.denoisers.model_folder import JUMPS, find_network
from opmerge.denoisers.models import Student, Teacher, network_digest
from opmerge.denoisers.pipelines import pipeline_parts
from opmerge.denoisers.teacher_folder import load_network
from opmerge.distillation.adapters import (
    Adapters,
    adapters_of,
    diffusers_weights,
    is_adapted,
    load_diffusers_weights,
    trainable_copy,
)
from opmerge.distillation.model_card import Making, Usage, own_call, write_card
from opmerge.distillation.own_pipeline import has_own_pipeline
from opmerge.distillation.plain_steps import plain_steps
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.distillation.usage import adapters_usage
from opmerge.errors import InputError
from opmerge.files import check_inside, folder_beside, read_json_object, reading, write_atomic

FORMAT = "opmerge.lora"
VERSION = 1
_INDEX = "lora.json"
_WEIGHTS = "pytorch_lora_weights.safetensors"
_BASE = "teacher"  # in the place of an adapter's name, for a step that stays the teacher's own


def is_lora_folder(folder: Path) -> bool:
    """Whether a folder is that of a student of adapters."""
    return (folder / _INDEX).is_file()


def pipeline_folder(folder: Path) -> Path:
    """Where the pipeline around a sampler's network is: of adapters, their teacher's folder."""
    if not is_lora_folder(folder):
        return folder
    return Path(str(read_json_object(folder / _INDEX).get("teacher")))


def save_adapters(
    student: Student, teacher: Teacher, folder: Path, making: Making | None = None
) -> Path:
    """Write a student of adapters on a teacher's network, whole or not at all.

    Args:
        making: told in its card.

    Raises:
        InputError: for a teacher that is in no folder, or if it cannot be written.
    """
    if teacher.folder is None:
        requirement = "must be of a folder that adapters can name"
        remedy = "save fused networks: `fused_student(student, teacher.network)`"
        raise InputError("teacher", requirement, "a network in memory", remedy)
    own = (jump.network for jump in student.jumps if is_adapted(jump.network))
    networks = list(dict.fromkeys(own))
    names = {network: f"adapter_{number}" for number, network in enumerate(networks, start=1)}
    place = find_network(teacher.folder).name
    component = place if place in ("unet", "transformer") else "unet"  # of a flat one, as most do
    kind = adapters_of(networks[0])
    index = {
        "format": FORMAT,
        "version": VERSION,
        "teacher": str(teacher.folder.resolve()),
        "network": network_digest(teacher.network),
        "component": component,
        "rank": kind.rank,
        "target_modules": kind.target_modules,
        "adapters": list(names.values()),
    }
    jumps = JumpScheduler.from_student(
        student, [names.get(jump.network, _BASE) for jump in student.jumps]
    )
    with folder_beside(folder) as unfinished:
        jumps.save_pretrained(unfinished / JUMPS)
        for network, name in names.items():
            (unfinished / name).mkdir()
            save_file(diffusers_weights(network, component), unfinished / name / _WEIGHTS)
        write_atomic(unfinished / _INDEX, json.dumps(index, indent=2) + "\n")
        write_card(
            unfinished, student, teacher, _usage(student, teacher, names, unfinished), making
        )
    return folder


def load_adapted(folder: Path) -> Student:
    """The student of a folder of ``save_adapters``, on its teacher's network.

    Raises:
        InputError: if a part is missing or damaged, or the teacher is another.
    """
    index, requirement = read_json_object(folder / _INDEX), "must be a whole folder of a student"
    with reading(folder, requirement):
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        scheduler: JumpScheduler = JumpScheduler.from_pretrained(folder / JUMPS)
        adapters = Adapters(index["rank"], tuple(index["target_modules"]))
        names = list(index["adapters"])
    for name in names:
        check_inside(name, folder / _INDEX)
    with reading(folder, requirement):
        tensors = {name: load_file(folder / name / _WEIGHTS) for name in names}
    base, place = _base(index, folder)
    networks: dict[str, nn.Module] = {_BASE: base}
    for name, weights in tensors.items():
        networks[name] = trainable_copy(base, adapters, torch.Generator())
        load_diffusers_weights(networks[name], index["component"], weights)
    for network in networks.values():
        network.requires_grad_(False).eval()
    config = config_of(base)
    return scheduler.student(networks, shape_of(config, place))


def _base(index: dict[str, Any], folder: Path) -> tuple[nn.Module, Path]:
    """The network that adapters are on, and its place; refused where it is another."""
    teacher = Path(index["teacher"])
    remedy = "save fused weights (`--fuse_lora`) to need no teacher"
    if not teacher.is_dir():
        requirement = f"must find the teacher of its adapters at {teacher}"
        raise InputError(str(folder), requirement, "none", remedy)
    place = find_network(teacher)
    config = read_json_object(place / "config.json")
    base = load_network(place, family_of(config).network_class(config, place))
    base.requires_grad_(False).eval()
    if network_digest(base) != index["network"]:
        requirement = f"must be of the network in {place}: its adapters are of another base"
        raise InputError(str(folder), requirement, remedy=remedy)
    return base, place


def _usage(
    student: Student, teacher: Teacher, names: Mapping[nn.Module, str], folder: Path
) -> Usage:
    """How adapters are loaded: by the teacher's own pipeline, if it does and each step has one.

    A scheduler of diffusers that takes the steps is then written beside them.
    """
    note = (
        "The teacher must be where `lora.json` says, and opmerge installed, with its extra `torch`."
    )
    if not has_own_pipeline(teacher):
        return Usage(
            "from opmerge.distillation import FewStepPipeline, load_student\n\n"
            "pipeline = FewStepPipeline.from_student(load_student(FOLDER))\n"
            f"images = pipeline({own_call(student)}).images",
            note,
            is_adapter=True,
        )
    assert teacher.folder is not None, "a pipeline is in a folder"
    parts = pipeline_parts(teacher.folder)
    known = [names.get(jump.network) for jump in student.jumps]
    adapters = [name for name in known if name is not None]
    pipeline_class = getattr(diffusers, parts.class_name)
    if len(adapters) < len(known) or not hasattr(pipeline_class, "load_lora_weights"):
        words = ' --prompt "PROMPT"' if student.needs.keys() - {LABELS} else ""
        code = f"opmerge sample FOLDER{words} --output samples.png"
        return Usage(code, note, is_adapter=True, language="sh")
    plain = plain_steps(student, teacher.scheduler_config, pipeline_class)
    if plain is not None:
        plain.scheduler.save_pretrained(folder / "scheduler")
    return adapters_usage(parts, student, plain, adapters)
