"""A student in its teacher's own pipeline: texts are encoded and latents decoded as before.

The folder holds the student's network and a scheduler of its steps; all other parts are links to
the teacher's, or copies. Where a scheduler of diffusers can take the steps, the pipeline runs
without code of this package: it is then told them in the call, as the folder's README says.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from opmerge.denoisers.families import config_of, family_of, shape_of
from opmerge.denoisers.linear_part import LinearDenoiser
from opmerge.denoisers.model_folder import INDEX, JUMPS, find_network, jumps_folder
from opmerge.denoisers.models import Student, Teacher
from opmerge.denoisers.pipelines import PipelineParts, other_parts, pipeline_parts
from opmerge.denoisers.teacher_folder import load_network
from opmerge.distillation.experts import TimestepExperts
from opmerge.distillation.model_card import Making, Usage, pipelines_call, write_card
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.files import folder_beside, read_json_object, reading, write_atomic

_LEVELS_DIFFER = 1e-3  # relative, of sigma/alpha: far below what a student's own error moves
_FAR_FROM_EULER = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@dataclass(frozen=True, eq=False)
class PlainSteps:
    """A scheduler of diffusers that takes a student's steps if the call names them.

    Args:
        argument: of the pipeline's call, ``timesteps`` or ``sigmas``.
    """

    scheduler: SchedulerMixin
    argument: str
    values: tuple[float, ...]


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
        write_card(unfinished, student, teacher, _usage(parts, student, plain), making)
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


def plain_steps(
    student: Student, config: Mapping[str, Any], pipeline_class: Any
) -> PlainSteps | None:
    """The scheduler of diffusers that takes a student's steps as they are, if there is one.

    Its levels sigma/alpha must be the student's to 1e-3, its last step must land where the
    student's does, and the pipeline's call must take the argument that names the steps.
    """
    chain = student.chain
    is_scaled = student.ddim.scalings is not None
    if (
        student.free_step is not None
        or is_scaled
        or any(
            isinstance(jump.denoiser, LinearDenoiser) or jump.readout != jump.stop for jump in chain
        )
    ):
        return None
    ddim = student.ddim
    places = [*(jump.start for jump in chain), 0]
    ratios = (ddim.sigmas[places] / ddim.alphas[places]).double().numpy()
    times = ddim.timesteps[places[:-1]].tolist()
    call = inspect.signature(pipeline_class.__call__).parameters
    for steps in _candidates(
        ddim.prediction_type, ddim.sigmas[places[:-1]].tolist(), times, config
    ):
        if steps.argument in call and _takes(steps, ratios, times):
            return steps
    return None


def _candidates(
    prediction: str, sigmas: Sequence[float], times: Sequence[float], config: Mapping[str, Any]
) -> Sequence[PlainSteps]:
    count = config.get("num_train_timesteps", 1000)
    if prediction == "flow_prediction":
        flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=count, shift=1.0)
        return [PlainSteps(flow, "sigmas", tuple(sigmas))]
    found = []
    for final in ("zero", "sigma_min"):
        euler = EulerDiscreteScheduler.from_config(
            config,
            **dict.fromkeys(_FAR_FROM_EULER, False),
            prediction_type=prediction,
            timestep_spacing="leading",  # z_T is then of variance 1, as the student's
            steps_offset=1,  # which only steps that are not named know, and pipelines warn of 0
            final_sigmas_type=final,
        )
        found.append(PlainSteps(euler, "timesteps", tuple(times)))
    return found


def _takes(steps: PlainSteps, ratios: np.ndarray[Any, Any], times: Sequence[float]) -> bool:
    """Whether a scheduler visits these levels at these times when its call names them."""
    try:
        steps.scheduler.set_timesteps(**{steps.argument: list(steps.values)})
    except ValueError:  # of levels that such a scheduler makes by itself alone
        return False
    levels = np.asarray(steps.scheduler.sigmas, dtype=np.float64)
    if steps.argument == "sigmas":
        with np.errstate(divide="ignore"):
            levels = levels / (1 - levels)
    own = np.asarray(steps.scheduler.timesteps, dtype=np.float64)
    return (
        levels.shape == ratios.shape
        and np.allclose(levels[:-1], ratios[:-1], rtol=_LEVELS_DIFFER)
        and abs(levels[-1] - ratios[-1]) <= _LEVELS_DIFFER
        and np.allclose(own, times, rtol=0, atol=1e-3)
    )


def _network(student: Student, networks: Sequence[Any]) -> ModelMixin:
    """What takes the place of the teacher's network: the student's, or all that it has."""
    if len(networks) == 1:
        only: ModelMixin = networks[0]
        return only
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


def _usage(parts: PipelineParts, student: Student, plain: PlainSteps | None) -> Usage:
    """How a student's pipeline is loaded and called."""
    name, asked = parts.class_name, pipelines_call(student)
    needed = "import opmerge.distillation  # the scheduler of the steps\n"
    if plain is not None:
        values = [round(value, 6) for value in plain.values]
        asked, needed = f"{asked}, {plain.argument}={values}", ""
    variant = f', variant="{parts.variant}"' if parts.variant else ""
    return Usage(
        f"{needed}from diffusers import {name}\n\n"
        f"pipeline = {name}.from_pretrained(FOLDER{variant})\n"
        f"images = pipeline({asked}).images",
        "Guidance, if its teacher had any, is part of what it has learned: it is sampled without "
        "(`guidance_scale=1.0`).",
    )
