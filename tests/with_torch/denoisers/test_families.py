"""A family of networks is defined in one place: there it says all that reading and calling need."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, ModelMixin, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch_helpers import scrambled

from opmerge import build_strategy
from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import FAMILIES, Config, Family, Rows, config_of, family_of
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation import (
    DataInputs,
    Distillation,
    DistillationConfig,
    OptimizationConfig,
    initial_noise,
    load_student,
    make_accelerator,
    save_student,
)
from opmerge.errors import InputError

STYLES = torch.linspace(-1, 1, 48).reshape(16, 3)
DATA = torch.linspace(-2, 2, 64).reshape(16, 4).sin()


class StyledNetwork(ModelMixin, ConfigMixin):
    """Called in a way of its own: times in [0, 1], and a style by another name."""

    @register_to_config
    def __init__(self, size: int = 4, style_size: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(size + 1 + style_size, size)

    def forward(self, *, state: Tensor, share: Tensor, style: Tensor) -> dict[str, Tensor]:
        return {"said": self.layer(torch.cat([state, share[:, None], style], dim=1))}


class Styled(Family):
    """All that has to be written for it."""

    class_names = ("StyledNetwork",)

    def network_class(self, config: Config, place: Path) -> Any:
        return StyledNetwork

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        return (config["size"],)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        return {"style": Rows((config["style_size"],))}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        assert told is not None
        return network(state=z, share=times / 1000, style=told.rows["style"])["said"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    return write_teacher_folder(tmp_path / "teacher", scrambled(StyledNetwork()), scheduler)


def test_a_family_defined_here_is_found_loaded_distilled_and_saved(
    folder: Path, tmp_path: Path
) -> None:
    teacher = load_teacher(folder, 4)
    assert (type(teacher.network), teacher.sample_shape) == (StyledNetwork, (4,))
    noise = initial_noise((4,), 2, seed=0)
    one, other = (Condition({"style": styles}) for styles in (STYLES[:2], STYLES[2:4]))
    assert not torch.equal(teacher.sample(noise, one), teacher.sample(noise, other))
    optimization = OptimizationConfig(train_batch_size=8, learning_rate=1e-2)
    config = DistillationConfig(num_iterations=3, optimization=optimization)
    inputs = DataInputs(DATA, Condition({"style": STYLES}))
    accelerator = make_accelerator(optimization, cpu=True)
    run = Distillation(teacher, build_strategy("progressive", 4), inputs, config, accelerator)
    assert all(torch.isfinite(record.loss) for record in run.run())
    student = run.student()
    again = load_student(save_student(student, tmp_path / "student"))
    assert torch.equal(again.sample(noise, one), student.sample(noise, one))
    assert not torch.equal(student.sample(noise, one), student.sample(noise, other))


def test_a_step_of_it_is_that_of_its_own_call(folder: Path) -> None:
    teacher = load_teacher(folder, 4)
    z = initial_noise((4,), 2, seed=0)
    (first, *_), told = teacher.steps(), Condition({"style": STYLES[:2]})
    with torch.no_grad():
        said = teacher.network(state=z, share=torch.full((2,), 0.999), style=STYLES[:2])["said"]
        assert torch.equal(first.denoiser(z, 4, told).noise, said)


def test_what_it_needs_is_said_beforehand() -> None:
    config, place = config_of(StyledNetwork()), Path("config.json")
    assert family_of(config).needs(config, place) == {"style": Rows((3,))}
    for number in (None, 3):
        config = config_of(MLPDenoiser([4], 16, 1, number))
        expected = {} if number is None else {"class_labels": Rows(below=3)}
        assert family_of(config).needs(config, place) == expected


@pytest.mark.parametrize(
    ("network", "family"),
    [
        (MLPDenoiser([4], 16, 1), "MLP"),
        (StyledNetwork(), "Styled"),
        (nn.Linear(2, 2), "Family"),
        ({"_class_name": "UNet2DModel"}, "UNet"),
        ({"_class_name": "UNet1DModel"}, "Family"),
        ({"_class_name": "UNet2DConditionModel"}, "StableDiffusion"),
        ({"_class_name": "DiTTransformer2DModel"}, "DiT"),
        ({"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}, "DiT"),
        ({"_class_name": "Transformer2DModel", "norm_type": "layer_norm"}, "Family"),
        ({}, "Family"),
    ],
)
def test_a_config_is_of_one_family(network: Any, family: str) -> None:
    """That of no name takes what no other reads."""
    config = config_of(network) if isinstance(network, nn.Module) else network
    assert type(family_of(config)).__name__ == family
    assert sum(each.reads(config) for each in FAMILIES) <= 1


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("AuraFlowTransformer2DModel", "encoder_hidden_states"),
        ("HiDreamImageTransformer2DModel", "encoder_hidden_states_t5"),
        ("OmniGenTransformer2DModel", "input_ids"),
        ("StableCascadeUNet", "clip_text_pooled"),
        ("ZImageTransformer2DModel", "cap_feats"),
    ],
)
def test_what_more_is_read_is_of_no_family(name: str, read: str) -> None:
    with pytest.raises(InputError, match=rf"as it reads {read}: DiT\w+, Flux\w+, .* got {name}$"):
        family_of({"_class_name": name}).network_class({"_class_name": name}, Path("config.json"))


def test_a_network_is_of_its_class_whatever_its_config_was_saved_as(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["_class_name"] == "StyledNetwork"
    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    assert config_of(network)["_class_name"] == "UNet2DModel"


def test_the_table_of_the_documents_names_every_family_and_its_networks() -> None:
    page = Path(__file__).parents[3] / "docs" / "concepts" / "networks.md"
    section = (
        page.read_text(encoding="utf-8")
        .split("## Families of teachers\n", 1)[1]
        .split("\n## ", 1)[0]
    )
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    known: dict[str, set[str]] = {}
    for family in FAMILIES:
        if family.class_names and (module := type(family).__module__).startswith("opmerge"):
            known.setdefault(module.rpartition(".")[2], set()).update(family.class_names)
    assert set(table) == set(known)
    for name, networks in known.items():
        assert networks <= set(re.findall(r"`(\w+)`", table[name])), name
