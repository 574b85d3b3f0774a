"""Distil a network of one's own: a torch module as teacher, and its student saved and sampled.

python examples/distil_own_network.py [ITERATIONS PER MERGE]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from opmerge import build_strategy
from opmerge.distillation import (
    DDIM,
    DataInputs,
    Distillation,
    DistillationConfig,
    Teacher,
    initial_noise,
    load_student,
    make_accelerator,
    save_student,
)


class Network(ModelMixin, ConfigMixin):
    """Any ``nn.Module`` is distilled; by these two bases diffusers can save and rebuild it."""

    @register_to_config
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.layers(torch.cat([sample, timestep[:, None] / 1000], dim=1))


def main(folder: Path, iterations: int) -> None:
    network = Network()  # and here .load_state_dict(torch.load("weights.pt", weights_only=True))
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    teacher = Teacher(network, DDIM.from_scheduler(scheduler, num_steps=4), sample_shape=(2,))
    data = torch.randn(1000, 2)
    config = DistillationConfig(num_iterations=iterations)
    accelerator = make_accelerator(config.optimization)
    run = Distillation(teacher, build_strategy("boot", 4), DataInputs(data), config, accelerator)
    for record in run.run():
        print(f"stage {record.stage}, iteration {record.iteration}: loss {record.loss:.3g}")
    student = load_student(save_student(run.student(), folder / "student"))
    print(student.sample(initial_noise(student.sample_shape, 3, seed=0)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else 5)
