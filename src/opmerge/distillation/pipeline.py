"""A student as a diffusers pipeline: sampling from it, and its folder on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from opmerge.checks import check_count
from opmerge.denoisers.denoiser import Condition, as_condition
from opmerge.denoisers.families import config_of
from opmerge.denoisers.model_folder import (
    is_in_pipeline,
    is_student,
    read_index,
    read_student_index,
)
from opmerge.denoisers.models import Student, Teacher, compose
from opmerge.denoisers.trusted import check_classes, parts_of
from opmerge.distillation.adapters import is_adapted
from opmerge.distillation.lora_folder import is_lora_folder, load_adapted, save_adapters
from opmerge.distillation.model_card import Making, Usage, own_call, write_card
from opmerge.distillation.own_pipeline import (
    has_own_pipeline,
    load_from_pipeline,
    load_part,
    save_in_pipeline,
)
from opmerge.distillation.sampling import is_image
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.distillation.stages import Stage
from opmerge.errors import InputError
from opmerge.files import folder_beside, in_place, reading, write_atomic
from opmerge.plans import Plan

MAX_NETWORKS = 8
_NONE = [None, None]  # in model_index.json, for a part that is not there
_CODE = '''\
"""For DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline")."""

from opmerge.distillation.pipeline import FewStepPipeline

__all__ = ["FewStepPipeline"]
'''


class FewStepPipeline(DiffusionPipeline):
    """Draws samples from a K-step student in K network evaluations.

    ``DiffusionPipeline.from_pretrained(folder)`` opens a folder of ``save_student`` where
    ``opmerge.distillation`` has been imported; elsewhere
    ``DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline",
    trust_remote_code=True)`` does, through the three lines of code in the folder.

    A one-step student needs neither, if its network was trained as a denoiser (denoiser copy)
    without a linear part beside it, at the timestep at which DDIM's trailing spacing starts:

        DDIMPipeline(
            unet=UNet2DModel.from_pretrained(folder, subfolder="unet"),
            scheduler=DDIMScheduler.from_config(teacher_scheduler, timestep_spacing="trailing"),
        )(num_inference_steps=1)

    gives the same images bit for bit.

    The scheduler holds the jumps, and which network each of them reads: ``unet`` is that of the
    first, whatever its architecture, the others follow in the order in which they are first read.
    """

    _optional_components = [f"unet_{number}" for number in range(2, MAX_NETWORKS + 1)]  # noqa: RUF012
    model_cpu_offload_seq = "->".join(["unet", *_optional_components])

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: JumpScheduler,
        unet_2: ModelMixin | None = None,
        unet_3: ModelMixin | None = None,
        unet_4: ModelMixin | None = None,
        unet_5: ModelMixin | None = None,
        unet_6: ModelMixin | None = None,
        unet_7: ModelMixin | None = None,
        unet_8: ModelMixin | None = None,
        sample_shape: tuple[int, ...] | list[int] = (),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        further = (unet_2, unet_3, unet_4, unet_5, unet_6, unet_7, unet_8)
        others = dict(zip(self._optional_components, further, strict=True))
        self.register_modules(unet=unet, scheduler=scheduler, **others)
        self.register_to_config(sample_shape=list(sample_shape), num_classes=num_classes)

    @classmethod
    def from_student(cls, student: Student) -> FewStepPipeline:
        """The pipeline of a student, with its networks as they are.

        Raises:
            InputError: if there are more than 8 networks, or one that diffusers cannot save.
        """
        reads = [jump.network for jump in student.jumps]
        networks = list(dict.fromkeys(reads))
        _check_networks(networks, len(networks))
        names = dict(zip(networks, ["unet", *cls._optional_components], strict=False))
        components: dict[str, Any] = {name: network for network, name in names.items()}
        return cls(
            **components,
            scheduler=JumpScheduler.from_student(student, [names[network] for network in reads]),
            sample_shape=student.sample_shape,
            num_classes=student.num_classes,
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write the folder, as diffusers does, and ``pipeline.py``, by which it is opened."""
        write_atomic(Path(save_directory) / "pipeline.py", _CODE)  # first: it may be pushed
        super().save_pretrained(save_directory, **options)

    def student(self) -> Student:
        """The student that the pipeline holds."""
        shape, device = tuple(self.config["sample_shape"]), self._execution_device
        return self.scheduler.student(self.components, shape, device)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw samples: ``images``, a list of images, an array or a tensor.

        Samples with two axes (grey) or three (channels first) are images, mapped from [-1, 1] to
        [0, 1] and clamped; vectors are given as they are.

        Args:
            batch_size: how many; with ``latents``, as many as there are of these.
            generator: of the noise; one, or one a sample.
            latents: (B, *sample_shape) noise z_T to start from.
            class_labels: one label, or (B,) labels, for class-conditional networks.
            output_type: ``pil`` (images), ``np`` (channels last) or ``pt`` (channels first).
            return_dict: a tuple with the images instead, if false.
            num_inference_steps: as other pipelines are told it; a student has K.
            timesteps: also; a student has its own.
            guidance_scale: also; a student needs no guidance.
            eta: also; a student draws no noise.

        Raises:
            InputError: for noise of another shape, labels that do not fit the networks, an output
                type that the samples cannot take, or steps, guidance and noise of other pipelines.
        """
        self.scheduler.set_timesteps(num_inference_steps, timesteps=timesteps)
        for name, value, only in (("guidance_scale", guidance_scale, 1), ("eta", eta, 0)):
            if value not in (None, only):
                raise InputError(name, f"must be {only} or left out for a student", value)
        student, shape = self.student(), tuple(self.config["sample_shape"])
        if output_type not in ("pil", "np", "pt"):
            raise InputError("output_type", "must be pil, np or pt", output_type)
        if output_type == "pil" and not is_image(shape):
            requirement = f"must be np or pt for samples of shape {shape}"
            raise InputError("output_type", requirement, output_type)
        device = self._execution_device
        if latents is None:
            latents = randn_tensor((batch_size, *shape), generator, device, self.unet.dtype)
        elif tuple(latents.shape[1:]) != shape:
            sizes = ", ".join(map(str, shape))
            raise InputError("latents", f"must have shape (B, {sizes})", tuple(latents.shape))
        z = latents.to(device)
        condition = _condition(class_labels, self.config["num_classes"], z)
        if student.free_step is not None:
            z = compose(student.ddim, [[student.free_step]], z)
        for jump in self.progress_bar(student.jumps):
            z = compose(student.ddim, [[jump]], z, condition=condition)
        self.maybe_free_model_hooks()
        images = _present(z, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


# DiffusionPipeline.from_pretrained looks a folder's class up in diffusers and nowhere else.
setattr(diffusers, FewStepPipeline.__name__, FewStepPipeline)


def save_student(
    student: Student,
    folder: Path,
    teacher: Teacher | None = None,
    copies: bool = False,
    making: Making | None = None,
) -> Path:
    """Write the pipeline folder of a student, whole or not at all; an older one is replaced.

    Args:
        teacher: whose own pipeline the student is written as, if it has one that does more than
            denoise: by links to its other parts, or ``copies`` of them. A student of adapters is
            written as these, beside no copy of the teacher's weights (see ``lora_folder``).
        making: how it came about, for its model card.

    Raises:
        InputError: as ``FewStepPipeline.from_student``; if the folder holds something else or
            cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder)
    if any(is_adapted(jump.network) for jump in student.jumps):
        if teacher is None:
            requirement = "must be given with a student of adapters, which are of its network"
            raise InputError("teacher", requirement)
        return save_adapters(student, teacher, folder, making)
    if teacher is not None and has_own_pipeline(teacher):
        return save_in_pipeline(student, teacher, folder, copies, making)
    pipeline = FewStepPipeline.from_student(student)
    with folder_beside(folder) as unfinished:
        pipeline.save_pretrained(unfinished)
        write_card(unfinished, student, teacher, _usage(student), making)
    return folder


def _usage(student: Student) -> Usage:
    """How a student's own pipeline is loaded and called."""
    return Usage(
        "import opmerge.distillation  # makes the pipeline's class known to diffusers\n"
        "from diffusers import DiffusionPipeline\n\n"
        "pipeline = DiffusionPipeline.from_pretrained(FOLDER)\n"
        f"images = pipeline({own_call(student)}).images",
        "opmerge must be installed, with its extra `torch`; "
        '`custom_pipeline="pipeline", trust_remote_code=True` takes the place of its import.',
    )


def check_can_be_saved(teacher: Teacher, plan: Plan, stages: Sequence[Stage], folder: Path) -> None:
    """Refuse, before anything is trained, what ``save_student`` would refuse or has no room for."""
    in_place = stages[-1].networks_after if stages else 0
    number = in_place + any(not tree.merges for tree in plan.students)
    _check_networks([teacher.network], 1 if has_own_pipeline(teacher) else number)
    check_replaceable(folder)
    needed = number * sum(weight.nbytes for weight in teacher.network.state_dict().values())
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    if free < needed:
        requirement = f"must have room for {needed:,} bytes"
        remedy = "make room or choose another place"
        raise InputError(str(folder), requirement, f"{free:,} free", remedy)


def load_student(folder: Path) -> Student:
    """Read a folder of ``save_student``; local files and safetensors only, no code of it is run.

    A network of a class of one's own is read where the module of the class is imported already.
    The sampler knows the steps at which the student reads and lands; at any other step of the
    teacher its coefficients are not a number.

    Raises:
        InputError: if it is not the folder of a student, or a part is missing, damaged, of a class
            that is not known, or not what its config describes.
    """
    folder = in_place(Path(folder))
    if is_lora_folder(folder):
        return load_adapted(folder)
    if is_in_pipeline(folder):
        return load_from_pipeline(folder)
    if read_student_index(folder) is None:
        raise InputError(
            str(folder),
            "must be the folder of a student",
            "no model_index.json of a FewStepPipeline",
            "give the folder that opmerge distill wrote",
        )
    index = read_index(folder)
    check_classes(index, folder)
    names = ("unet", *FewStepPipeline._optional_components)
    known = parts_of(index)
    parts = {name: known[name] for name in names if known.get(name, _NONE) != _NONE}
    for name in (*parts, "scheduler"):
        if not (folder / name).is_dir():
            raise InputError(str(folder), f"must have the part {name}/", "none")
    networks = {name: load_part(folder / name, entry) for name, entry in parts.items()}
    with reading(folder, "must be a whole folder of a student"):
        scheduler: JumpScheduler = JumpScheduler.from_pretrained(folder / "scheduler")
        return scheduler.student(networks, _sample_shape(index, networks))


def _sample_shape(index: Mapping[str, Any], networks: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a student's samples, which is that of networks that know one."""
    shape = tuple(check_count("sample_shape", size) for size in index["sample_shape"])
    for name, network in networks.items():
        known = tuple(config_of(network).get("sample_shape", shape))
        if known != shape:
            raise ValueError(f"sample_shape {shape}, and that of {name} {known}")
    return shape


def _check_networks(networks: Iterable[nn.Module], number: int) -> None:
    for network in networks:
        if not isinstance(network, ModelMixin):
            raise InputError(
                "student",
                "must have networks that derive from diffusers' ModelMixin and ConfigMixin",
                type(network).__name__,
                "a plain torch module says nothing of how to build it again",
            )
    if number > MAX_NETWORKS:
        requirement = f"must have at most {MAX_NETWORKS} networks to be saved as a pipeline"
        remedy = 'share networks (`sharing="round"`) or take fewer student steps'
        raise InputError("student", requirement, number, remedy)


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds something other than a student (``InputError``)."""
    if not folder.exists() or is_student(folder):
        return
    if not folder.is_dir() or any(folder.iterdir()):
        requirement = "must be new, empty or the folder of a student"
        raise InputError(str(folder), requirement, remedy="choose another place")


def _condition(
    given: int | Sequence[int] | Tensor | None, number: int | None, z: Tensor
) -> Condition | None:
    """What a student of so many classes is told beside the states."""
    if number is None and given is None:
        return None
    requirement = "must be left out" if number is None else f"must be in 0 … {number - 1}"
    if number is None or given is None:
        raise InputError("class_labels", f"{requirement} for this student", repr(given))
    labels = torch.as_tensor(given).expand(len(z))
    if ((labels < 0) | (labels >= number)).any():
        raise InputError("class_labels", requirement, labels.tolist())
    return as_condition(labels.to(z.device))


def _present(samples: Tensor, output_type: str) -> Any:
    """Samples as a pipeline of diffusers returns them."""
    if samples.ndim > 2:
        samples = (samples / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return samples
    if samples.ndim == 4:
        samples = samples.permute(0, 2, 3, 1)
    array = samples.cpu().float().numpy()
    if output_type == "np":
        return array
    return DiffusionPipeline.numpy_to_pil(array if array.ndim == 4 else array[..., None])
