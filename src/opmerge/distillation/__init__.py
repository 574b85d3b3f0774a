"""Execute merge plans on real networks: teachers, training, students, measurement.

Needs the extra ``torch``. Importing this package makes the classes of saved students known to
diffusers, so that ``DiffusionPipeline.from_pretrained`` opens them.
"""

from __future__ import annotations

from opmerge.errors import not_installed

try:
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise not_installed("opmerge.distillation", error.name) from error

from opmerge.denoisers.inputs import DataInputs, NoiseInputs
from opmerge.denoisers.models import Jump, Student, Teacher, initial_noise
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation.executor import Distillation, TrainingRecord
from opmerge.distillation.networks import MLPDenoiser
from opmerge.distillation.pipeline import FewStepPipeline, load_student, save_student
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

__all__ = [
    "DDIM",
    "DataInputs",
    "Distillation",
    "DistillationConfig",
    "FewStepPipeline",
    "Jump",
    "MLPDenoiser",
    "NoiseInputs",
    "OptimizationConfig",
    "Student",
    "Teacher",
    "TrainingRecord",
    "initial_noise",
    "load_student",
    "load_teacher",
    "make_accelerator",
    "save_student",
]
