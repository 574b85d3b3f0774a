"""Spend a budget on a network of one's own: it is planned for, distilled, measured and saved.

python examples/distil_own_network.py [BUDGET in network evaluations]
"""

import sys
import tempfile
from pathlib import Path

import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from opmerge import open_source, resolve_spectrum
from opmerge.denoisers.inputs import load_samples
from opmerge.distillation import DDIM, DataInputs, DistillationConfig, Teacher, make_accelerator
from opmerge.settings.commands import SpendingOptions
from opmerge.spending import Spending


class Network(ModelMixin, ConfigMixin):
    """Any ``nn.Module`` is distilled; by these two bases diffusers can save and rebuild it."""

    @register_to_config
    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(65, width), nn.SiLU(), nn.Linear(width, 64))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        told = torch.cat([sample.flatten(1), timestep[:, None] / 1000], dim=1)
        return self.layers(told).view_as(sample)


def main(folder: Path, budget: str) -> None:
    data, spectrum = load_samples(open_source("digits"), (1, 8, 8)), resolve_spectrum("digits")
    kind = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    network, scheduler = Network(), DDIMScheduler(clip_sample=False, **kind)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(1000):  # or .load_state_dict(torch.load("weights.pt", weights_only=True))
        x, t = data[torch.randint(len(data), (128,))], torch.randint(1000, (128,))
        noise, _ = torch.randn_like(x), optimizer.zero_grad()
        error = network(scheduler.add_noise(x, noise, t), t) - scheduler.get_velocity(x, noise, t)
        error.square().mean().backward()
        optimizer.step()
    teacher = Teacher(network, DDIM.from_scheduler(scheduler, num_steps=16), data.shape[1:])
    told = {"teacher": folder, "steps": 16, "student_steps": 2, "output_dir": folder}
    asked, config = SpendingOptions(budget=budget, **told), DistillationConfig()
    given = teacher, DataInputs(data), spectrum, asked, config
    spending = Spending.of(*given, make_accelerator(config.optimization), warn=print)
    for student in (spending.best(), spending.usual("progressive")):
        expected = f", expected {student.forecast.rms:.3g}" if student.forecast else ""
        print(f"{student.name}: off by {student.measured.value:.3g}{expected}")
    print("written, to be read by load_student:", spending.student_folder("plan"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), sys.argv[1] if len(sys.argv) > 1 else "100000")
