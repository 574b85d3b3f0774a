"""Teachers in folders: saved diffusers pipelines, read without running code of theirs."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, ModelMixin, SchedulerMixin

from opmerge.denoisers.clipping import Clipping
from opmerge.denoisers.families import Rows, family_of, shape_of
from opmerge.denoisers.model_folder import (
    INDEX,
    find_network,
    find_variant,
    is_student,
    locate_model,
    read_index,
)
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import own_memory
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.trusted import check_shards, check_sizes
from opmerge.errors import InputError
from opmerge.files import check_plain, folder_beside, read_json_object, reading
from opmerge.schedules import NoiseSchedule, diffusers_schedule
from opmerge.schedules.configs import find_scheduler_config, read_scheduler_config
from opmerge.schedules.diffusers import build_scheduler
from opmerge.schedules.hub import quiet

_GUIDES = ("controlnet", "adapter", "motion_adapter", "image_encoder")
# Roundings of float32, in units of 2^-24, that one factor 1 - beta of the cumulative product may
# bring in: of beta, of 1 - beta, of the product, and as many again where betas are rescaled.
_ROUNDINGS = 6
_CLOSE = 1e-5  # of itself, by which times and variances that are no such products may differ


@dataclass(frozen=True)
class _Description:
    """All that a folder says of a teacher but its weights."""

    root: Path
    network_folder: Path
    network_class: type[ModelMixin]
    shape: tuple[int, ...]
    needs: Mapping[str, Rows]
    schedule: NoiseSchedule
    ddim: DDIM
    clipping: Clipping | None

    @classmethod
    def of(cls, root: Path, num_steps: int, ignore_clipping: bool) -> _Description:
        if is_student(root):
            requirement = "must be a teacher: a student takes its own steps only"
            remedy = "pass the folder of the teacher that it was distilled from"
            raise InputError("teacher", requirement, str(root), remedy)
        network_folder = find_network(root)
        check_guides(root)
        place = network_folder / "config.json"
        config = read_json_object(place)
        family = family_of(config)
        network_class = family.network_class(config, place)
        config = {**_defaults(network_class), **config}
        shape = shape_of(config, place)
        with reading(place, "must have settings of a network"):
            needs, num_tokens = family.needs(config, place), family.num_tokens(config, shape)
        schedule = _schedule(root, num_steps, num_tokens, family.scheduling)
        scheduler = build_scheduler(schedule.parameters)
        clipping = Clipping.of(scheduler)
        if clipping is not None and not ignore_clipping:
            requirement = "must be false: a clipped estimate of x_0 is not linear, so that no "
            requirement += "student's estimate could stand for several clipped steps"
            remedy = "pass `ignore_clipping` to distil it as if it were"
            raise InputError(
                f"{find_scheduler_config(root)}: {clipping.key}", requirement, "true", remedy
            )
        ddim = DDIM.from_scheduler(scheduler, num_steps, schedule)
        return cls(root, network_folder, network_class, shape, needs, schedule, ddim, clipping)


def load_teacher(
    model: str | os.PathLike[str], num_steps: int, ignore_clipping: bool = False
) -> Teacher:
    """A T-step teacher on the CPU, in float32, from a folder or, by its name, from the hub.

    The folder (``locate_model``) is that of a saved diffusers pipeline (``model_index.json``,
    ``unet/`` or ``transformer/`` or one other network, ``scheduler/``), or a flat one
    (``config.json``, ``diffusion_pytorch_model.safetensors`` and ``scheduler_config.json``). Any
    scheduler that ``diffusers_schedule`` reads is taken, as first order on its own noise levels;
    where these depend on the size of a sample, on those of the network's.

    Args:
        ignore_clipping: take a teacher whose scheduler clips x̂, as if it did not.

    Raises:
        InputError: if a part is missing, damaged or of a kind that cannot be distilled here.
    """
    told = _Description.of(locate_model(model), num_steps, ignore_clipping)
    network = load_network(told.network_folder, told.network_class)
    parameters = told.schedule.parameters
    return Teacher(
        network, told.ddim, told.shape, told.needs, parameters, told.root, clipping=told.clipping
    )


@dataclass(frozen=True)
class TeacherOutline:
    """What a plan can know of a teacher: its schedule, and the shape of a sample where it is known.

    The notes of the schedule say why ``load_teacher`` refuses the teacher, if it does.
    """

    schedule: NoiseSchedule
    sample_shape: tuple[int, ...] | None


def outline_teacher(model: str | os.PathLike[str], num_steps: int) -> TeacherOutline:
    """What a folder says of a teacher, whose weights are not read.

    A folder that holds no more than a scheduler is read as that alone.

    Raises:
        InputError: as ``diffusers_schedule``.
    """
    root = locate_model(model)
    schedule, shape, refusal = None, None, None
    try:
        described = _Description.of(root, num_steps, ignore_clipping=True)
        schedule, shape = described.schedule, described.shape
        find_variant(described.network_folder)
    except InputError as error:
        refusal = str(error)
    if schedule is None:
        schedule = diffusers_schedule(root, num_steps)
    is_model = (root / INDEX).is_file() or any(
        place.is_file() for place in (root / "config.json", *root.glob("*/config.json"))
    )
    is_told = refusal is None or any(refusal in note for note in schedule.notes)
    if is_model and not is_told:
        reason = f"opmerge distill refuses this teacher: {refusal}"
        schedule = replace(schedule, notes=(*schedule.notes, reason))
    return TeacherOutline(schedule, shape)


def _schedule(
    root: Path, num_steps: int, num_tokens: int, scheduling: Mapping[str, Any]
) -> NoiseSchedule:
    """What the scheduler of a folder visits for samples of so many tokens, in its pipeline."""
    config = {**read_scheduler_config(root), **scheduling}
    tokens = None if "image_seq_len" in config else num_tokens
    return diffusers_schedule(config, num_steps, tokens)


def check_guides(root: Path) -> None:
    """Refuse a pipeline that tells its network what none of our conditions holds.

    Raises:
        InputError: naming what that is.
    """
    index = read_index(root)
    for name in _GUIDES:
        if isinstance(index.get(name), list) and index[name] and index[name][0] is not None:
            needed = f"must have no {name}: only texts and classes guide what is distilled here"
            raise InputError(str(root), needed, index.get("_class_name"))
    if index.get("requires_aesthetics_score"):
        requirement = "must not be a refiner, which goes on from another's image"
        raise InputError(str(root), requirement, index.get("_class_name"))


def _defaults(network_class: type[ModelMixin]) -> dict[str, Any]:
    """What keys that a config leaves out are."""
    known = inspect.signature(network_class.__init__).parameters.items()
    return {name: each.default for name, each in known if each.default is not each.empty}


def check_plan_fits(teacher: Teacher, schedule: NoiseSchedule) -> None:
    """Refuse a plan that was made for another schedule than the teacher's.

    The variances alpha² and sigma² are compared: where the network's times are whole at the
    accuracy of a cumulative product of n factors in float32, else at that of float32. So are the
    times, where the plan's schedule has them.

    Raises:
        InputError: naming the first step that differs.
    """
    ddim = teacher.ddim.to(torch.device("cpu"))
    if schedule.num_steps != ddim.num_steps:
        requirement = f"must have T = {ddim.num_steps} steps, as the teacher"
        remedy = f"pass `num_steps={schedule.num_steps}`, or make a plan for this teacher"
        raise InputError("plan", requirement, schedule.num_steps, remedy)
    timesteps, is_whole = (
        ddim.timesteps[1:].double().numpy(),
        not ddim.timesteps.is_floating_point(),
    )
    remedy = "make the plan with `schedule` set to the folder of the teacher"
    tolerance = 0.0 if is_whole else _CLOSE
    if schedule.timesteps is not None and not np.allclose(
        schedule.timesteps, timesteps, rtol=tolerance, atol=tolerance
    ):
        raise InputError("plan", "must have the timesteps of the teacher", remedy=remedy)
    variances = {"alpha": ddim.alphas, "sigma": ddim.sigmas}
    factors = np.array([timesteps[0], *timesteps]) + 1
    product = _ROUNDINGS * 2.0**-24 * (factors * ddim.alphas.double().numpy() ** 2 + 1)
    for name, table in variances.items():
        own, planned = table.double().numpy(), getattr(schedule, f"{name}s")
        error = product if is_whole else _CLOSE * own**2 + 2.0**-48
        for step in np.flatnonzero(np.abs(own**2 - planned**2) > error)[:1]:
            needed = f"must be made for the teacher's schedule ({name}_{step} = {own[step]:.6g})"
            raise InputError("plan", needed, f"{name}_{step} = {planned[step]:.6g}", remedy)


def write_teacher_folder(
    folder: str | os.PathLike[str], network: ModelMixin, scheduler: SchedulerMixin
) -> Path:
    """Write a network and its scheduler as a pipeline of diffusers, whole or not at all.

    It is a ``DDIMPipeline``, or for any other scheduler, which that would replace, a
    ``DDPMPipeline``; diffusers draws from both.

    Raises:
        InputError: if it cannot be written, or something other than a pipeline has the name.
    """
    target = Path(folder)
    if target.exists() and not (target / INDEX).is_file():
        raise InputError(str(target), "must be a new folder, or one of a model to be replaced")
    pipeline = DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline
    with folder_beside(target) as unfinished:
        pipeline(network, scheduler).save_pretrained(unfinished)
    return target


def load_network(place: Path, network_class: type[ModelMixin]) -> ModelMixin:
    """The network of a folder, in float32; of weights in one variant, such as fp16, too.

    Raises:
        InputError: if its weights are missing, pickled, damaged, not finite or not those of its
            config.
    """
    check_sizes(read_json_object(place / "config.json"), place / "config.json")
    variant = find_variant(place)
    check_shards(place)
    check_plain(place / "config.json")
    with (
        quiet(),
        reading(place, "must hold a readable config and the weights that fit it"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # that old names of shards are deprecated
        network, report = network_class.from_pretrained(
            place,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    for kind in ("missing", "unexpected", "mismatched"):
        if keys := report[f"{kind}_keys"]:
            requirement = f"must hold the weights that config.json describes ({kind} in them)"
            raise InputError(str(place), requirement, ", ".join(sorted(map(str, keys))))
    own_memory(network)
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(str(place), "must hold finite weights", f"{name} that are not")
    return network
