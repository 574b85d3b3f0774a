"""Teachers in folders: saved diffusers pipelines, read without running code of theirs."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, ModelMixin, SchedulerMixin

from opmerge.denoisers.families import family_of
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import own_memory
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.files import expand_home, folder_beside, read_json_object, reading
from opmerge.schedules import NoiseSchedule, diffusers_schedule
from opmerge.schedules.diffusers import build_scheduler

INDEX = "model_index.json"
JUMPS = "jumps"
"""The folder of a student's jumps in its teacher's pipeline; diffusers does not read it."""
_WEIGHTS, _SUFFIX = "diffusion_pytorch_model", ".safetensors"
_NETWORK_FOLDERS = ("unet", "transformer")
_GUIDES = ("controlnet", "adapter", "motion_adapter", "image_encoder")
# Roundings of float32, in units of 2^-24, that one factor 1 - beta of the cumulative product may
# bring in: of beta, of 1 - beta, of the product, and as many again where betas are rescaled.
_ROUNDINGS = 6
_CLOSE = 1e-5  # of itself, by which times and variances that are no such products may differ


def load_teacher(folder: str | os.PathLike[str], num_steps: int) -> Teacher:
    """A T-step DDIM teacher from a local folder, on the CPU, in float32; nothing is downloaded.

    The folder is that of a saved diffusers pipeline (``model_index.json``, ``unet/`` or
    ``transformer/`` or one other network, ``scheduler/``), or a flat one (``config.json``,
    ``diffusion_pytorch_model.safetensors`` and ``scheduler_config.json``). Any scheduler that
    ``diffusers_schedule`` reads is taken, as first order on its own noise levels.

    Raises:
        InputError: if a part is missing, damaged or of a kind that cannot be distilled here.
    """
    root = expand_home(folder)
    if not root.is_dir():
        remedy = "download a model first: only local folders are read"
        raise InputError("teacher", "must be an existing folder", str(folder), remedy)
    if is_student(root):
        requirement = "must be a teacher: a student takes its own steps only"
        remedy = "pass the folder of the teacher that it was distilled from"
        raise InputError("teacher", requirement, str(folder), remedy)
    network_folder = find_network(root)
    place = network_folder / "config.json"
    schedule = diffusers_schedule(root, num_steps)
    scheduler = build_scheduler(schedule.parameters)
    _check_linear(scheduler, root)
    ddim = DDIM.from_scheduler(scheduler, num_steps, schedule)
    check_guides(root)
    config = read_json_object(place)
    family = family_of(config)
    network_class = family.network_class(config, place)
    config = {**_defaults(network_class), **config}
    shape, needs = family.sample_shape(config, place), family.needs(config, place)
    network = load_network(network_folder, network_class)
    return Teacher(network, ddim, shape, needs, schedule.parameters, root)


def check_guides(root: Path) -> None:
    """Refuse a pipeline that tells its network what none of our conditions holds.

    Raises:
        InputError: naming what that is.
    """
    index = read_json_object(root / INDEX) if (root / INDEX).is_file() else {}
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


def _check_linear(scheduler: SchedulerMixin, folder: Path) -> None:
    """Refuse a scheduler that clips, in its own class' way."""
    for key in ("clip_sample", "clip_denoised", "thresholding"):
        if scheduler.config.get(key):
            raise InputError(
                key,
                "must be false: a clipped estimate of x_0 is not linear, so that no student's "
                "estimate could stand for several clipped steps",
                "true",
                f'set "{key}": false in scheduler_config.json of {folder}',
            )


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
    folder: str | os.PathLike[str], network: ModelMixin, scheduler: DDIMScheduler
) -> Path:
    """Write a network and its scheduler as a diffusers ``DDIMPipeline``, whole or not at all.

    Raises:
        InputError: if it cannot be written, or something other than a pipeline has the name.
    """
    target = Path(folder)
    if target.exists() and not (target / INDEX).is_file():
        raise InputError(str(target), "must be a new folder, or one of a model to be replaced")
    with folder_beside(target) as unfinished:
        DDIMPipeline(network, scheduler).save_pretrained(unfinished)
    return target


def read_student_index(folder: Path) -> dict[str, Any] | None:
    """``model_index.json`` of a folder, or None if it is not that of a saved student."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_student = isinstance(index, dict) and index.get("_class_name") == "FewStepPipeline"
    return index if is_student else None


def is_in_pipeline(folder: Path) -> bool:
    """Whether a folder holds a student in its teacher's pipeline: its jumps lie there."""
    return (folder / JUMPS / "scheduler_config.json").is_file()


def is_student(folder: Path) -> bool:
    """Whether a folder is that of a saved student, of either kind."""
    return read_student_index(folder) is not None or is_in_pipeline(folder)


def find_network(root: Path) -> Path:
    """The folder that holds config.json and the weights of the network."""
    if not (root / INDEX).is_file():
        if (root / "config.json").is_file() and (root / "scheduler_config.json").is_file():
            return root
        value, remedy = None, "pass the folder that `save_pretrained` of a diffusers pipeline wrote"
        if (root / "teacher" / INDEX).is_file():
            remedy = f"pass {root / 'teacher'}"  # of a run that trained one
        elif any(any((root / name).glob(f"{_WEIGHTS}*")) for name in ("", *_NETWORK_FOLDERS)):
            value = "a network without its scheduler"
            remedy = "save them together: DDIMPipeline(unet, scheduler).save_pretrained(folder)"
        needed = f"must hold {INDEX}, or config.json and scheduler_config.json"
        raise InputError(str(root), needed, value, remedy)
    index = read_json_object(root / INDEX)
    for name in _NETWORK_FOLDERS:
        if name in index:
            return root / name
    networks = [
        name
        for name, entry in index.items()
        if isinstance(entry, list)
        and entry
        and str(entry[0]).split(".")[0] in ("diffusers", "opmerge")
        and not str(entry[-1]).endswith("Scheduler")
    ]
    if len(networks) != 1:
        requirement = f"must name a network as {' or '.join(_NETWORK_FOLDERS)}, or one network only"
        raise InputError(str(root / INDEX), requirement, ", ".join(networks) or "none")
    return root / networks[0]


def load_network(place: Path, network_class: type[ModelMixin]) -> ModelMixin:
    """The network of a folder, in float32; of weights in one variant, such as fp16, too.

    Raises:
        InputError: if its weights are missing, pickled, damaged or not those of its config.
    """
    variant = _variant(place)
    with reading(place, "must hold a readable config and the weights that fit it"):
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
            raise InputError(str(place), requirement, ", ".join(map(str, keys)))
    own_memory(network)
    return network


def _variant(place: Path) -> str | None:
    """None for weights of the usual name, or else what theirs has more, such as fp16."""
    usual = place / f"{_WEIGHTS}{_SUFFIX}"
    if usual.is_file() or Path(f"{usual}.index.json").is_file():
        return None
    found = [path.name for path in place.glob(f"{_WEIGHTS}.*{_SUFFIX}")]
    if len(found) == 1:
        return found[0].removeprefix(f"{_WEIGHTS}.").removesuffix(_SUFFIX)
    pickled = any(place.glob("*.bin"))
    raise InputError(
        str(usual),
        "must exist" + (" (weights in .bin files are not read: they are pickled)" * pickled),
        remedy="save the model again with save_pretrained(..., safe_serialization=True)",
    )
