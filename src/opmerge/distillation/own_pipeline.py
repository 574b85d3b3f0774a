"""A student in its teacher's own pipeline: texts are encoded and latents decoded as before.

The folder holds the student's network and a scheduler of its steps; all other parts are links to
the teacher's, or copies. Where a scheduler of diffusers can take the steps, the pipeline runs
without code of this package: it is then told them in the call, as the folder's README says.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModelMixin

from opmerge.denoisers.families import config_of, family_of, shape_of
from opmerge.denoisers.model_folder import INDEX, JUMPS, find_network, jumps_folder
from opmerge.denoisers.models import Student, Teacher
from opmerge.denoisers.pipelines import other_parts, pipeline_parts
from opmerge.denoisers.teacher_folder import load_network
from opmerge.distillation.experts import TimestepExperts
from opmerge.distillation.model_card import Making, write_card
from opmerge.distillation.plain_steps import plain_steps
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.distillation.usage import pipeline_usage
from opmerge.files import folder_beside, read_json_object, reading, write_atomic


def has_own_pipeline(teacher: Teacher) -> bool:
    """Whether a teacher came in a pipeline that does more than denoise: its parts say so."""
    return teacher.folder is not None and bool(other_parts(teacher.folder))


def save_in_pipeline(
    student: Student,
    teacher: Teacher,
    folder: Path,
    copies: bool = False,
    making: Making | None = None,
) -> Path:
    """Write a student as its teacher's pipeline, whole or not at all; an older one is replaced.

    Args:
        teacher: one that has its own pipeline.
        copies: the other parts are copied; they are links to the teacher's otherwise.
        making: told in its card.

    Raises:
        InputError: if it cannot be written.
    """
    assert teacher.folder is not None, "asked for before"
    root = teacher.folder.resolve()
    parts = pipeline_parts(root)
    networks = list(dict.fromkeys(jump.network for jump in student.jumps))
    jumps = JumpScheduler.from_student(
        student, [f"{networks.index(jump.network)}" for jump in student.jumps]
    )
    network, is_plain = _network(student, networks), len(networks) == 1
    pipeline_class = getattr(diffusers, parts.class_name)
    plain = plain_steps(student, teacher.scheduler_config, pipeline_class) if is_plain else None
    scheduler = jumps if plain is None else plain.scheduler
    index = {**parts.index, "scheduler": _entry(scheduler), parts.network: _entry(network)}
    with folder_beside(folder) as unfinished:
        for name in other_parts(root):
            if copies:
                shutil.copytree(root / name, unfinished / name)
            else:
                (unfinished / name).symlink_to(root / name, target_is_directory=True)
        network.save_pretrained(unfinished / parts.network, variant=parts.variant)
        scheduler.save_pretrained(unfinished / "scheduler")
        jumps.save_pretrained(unfinished / JUMPS)
        write_atomic(unfinished / INDEX, json.dumps(index, indent=2) + "\n")
        write_card(unfinished, student, teacher, pipeline_usage(parts, student, plain), making)
    return folder


def load_from_pipeline(folder: Path) -> Student:
    """The student of a folder of ``save_in_pipeline``; other parts of it are not read."""
    place = find_network(folder)
    with reading(folder, "must be a whole folder of a student"):
        scheduler: JumpScheduler = JumpScheduler.from_pretrained(jumps_folder(folder))
    network: Any = load_part(place)
    networks = [*network.experts] if isinstance(network, TimestepExperts) else [network]
    own = config_of(networks[0])
    shape = shape_of(own, place)
    named = {str(number): network for number, network in enumerate(networks)}
    with reading(folder, "must be a whole folder of a student"):
        return scheduler.student(named, shape)


def load_part(place: Path, entry: Sequence[str] = ("", "")) -> ModelMixin:
    """The network in a folder of a student, for reading: of a class that is known or imported.

    Args:
        entry: module and class in ``model_index.json``, which say what a config of one's own
            class does not.
    """
    config = read_json_object(place / "config.json")
    own = getattr(sys.modules.get(entry[0]), entry[1], None)
    network_class: Any = TimestepExperts
    if isinstance(own, type) and issubclass(own, ModelMixin):
        network_class = own
    elif config.get("_class_name") != TimestepExperts.__name__:
        network_class = family_of(config).network_class(config, place)
    network = load_network(place, network_class)
    network.requires_grad_(False).eval()
    return network


def _network(student: Student, networks: Sequence[Any]) -> ModelMixin:
    """What takes the place of the teacher's network: the student's, or all that it has."""
    if len(networks) == 1:
        return networks[0]
    times = student.ddim.timesteps
    asked = [
        [float(times[jump.start]) for jump in student.jumps if jump.network is network]
        for network in networks
    ]
    return TimestepExperts.of(networks, asked)


def _entry(part: Any) -> list[str]:
    """How ``model_index.json`` names a part."""
    module, name = type(part).__module__, type(part).__name__
    return ["diffusers" if hasattr(diffusers, name) else module, name]
