"""Folders are anyone's: nothing that one names is imported or run, and no path leads out of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_pipeline
from torch import Tensor, nn
from torch_helpers import edit_json, scrambled

from opmerge.denoisers.model_folder import find_network
from opmerge.denoisers.models import Jump, Student, initial_noise
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation import load_student, save_student
from opmerge.errors import InputError
from opmerge.forecast.files import read_calibration
from opmerge.forecast.law import LAW_PRIORS, FittedLaw

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

INDEX, WEIGHTS = "model_index.json", "diffusion_pytorch_model.safetensors"
EVIL = "import os, pathlib\npathlib.Path(os.environ['EVIL_MARK']).touch()\n"
EVIL += "from diffusers import UNet2DModel as Evil\n"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that evil code makes when it is run, wherever Python finds it."""
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "mark"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "evil_installed.py").write_text(EVIL)
    monkeypatch.syspath_prepend(elsewhere)
    return tmp_path / "mark"


def mlp(**config: Any) -> MLPDenoiser:
    return scrambled(
        MLPDenoiser(**{"sample_shape": (4,), "hidden_size": 8, "num_layers": 2, **config})
    )


def one_step(network: Any, shape: tuple[int, ...] = (4,)) -> Student:
    ddim = DDIM.from_scheduler(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), 4)
    return Student((Jump(ddim.denoiser(network), 4, 0, 0),), ddim, shape)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return save_student(one_step(mlp()), tmp_path / "student")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_teacher_folder(tmp_path / "teacher", mlp(), DDIMScheduler(clip_sample=False))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def beside(name: str, module: str = "evil") -> Callable[[Path], None]:
    """Code in the folder of a part, which the index names."""

    def change(folder: Path) -> None:
        edit_json(folder / INDEX, **{name: [module, "Evil"]})
        (folder / name / f"{module}.py").write_text(EVIL)

    return change


def installed(name: str) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / INDEX, **{name: ["evil_installed", "Evil"]})


def as_library(name: str) -> Callable[[Path], None]:
    """Code that is named as the library is."""
    return lambda folder: (folder / name / "diffusers.py").write_text(EVIL) and None


STUDENTS: dict[str, Callable[[Path], None]] = {
    "unet: code beside it": beside("unet"),
    "unet: an installed module": installed("unet"),
    "unet: code named diffusers.py": as_library("unet"),
    "scheduler: code beside it": beside("scheduler"),
    "scheduler: an installed module": installed("scheduler"),
    "unet_2: an installed module": installed("unet_2"),
    "unet: a function": lambda f: edit_json(f / INDEX, unet=["os", "system"]),
    "unet: a pipeline": lambda f: edit_json(f / INDEX, unet=["diffusers", "DiffusionPipeline"]),
    "unet: not a pair": lambda f: edit_json(f / INDEX, unet=["evil"]),
    "unet: no list": lambda f: edit_json(f / INDEX, unet="evil"),
    "unet: no name": lambda f: edit_json(f / INDEX, unet=[None]),
    "a part outside": lambda f: edit_json(f / INDEX, **{"../elsewhere": ["evil", "Evil"]}),
}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("command", ["sample", "evaluate-student"])
def test_no_code_that_a_student_names(
    student: Path, teacher: Path, mark: Path, run: Run, seen: Seen, name: str, command: str
) -> None:
    if name == "unet: code named diffusers.py":
        edit_json(student / INDEX, unet=["diffusers", "UNet2DModel"])
    STUDENTS[name](student)
    arguments: tuple[object, ...] = (student, "--output", student.parent / "s.npy")
    if command == "evaluate-student":
        arguments = ("--student", student, "--teacher", teacher, "--num_samples", 4)
    status, _, err = run(command, *arguments)
    seen(f"{command}, {name}", "exit 2, nothing run", f"exit {status}, run: {mark.exists()}")
    assert (status, err.count("\n"), mark.exists()) == (2, 1, False)
    assert "evil_installed" not in sys.modules


PIPELINES: dict[str, Callable[[Path], None]] = {
    "unet: code beside it": beside("unet"),
    "vae: code beside it": beside("vae"),
    "vae: an installed module": installed("vae"),
    "scheduler: an installed module": installed("scheduler"),
    "text_encoder: an installed module": installed("text_encoder"),
    "tokenizer: chosen by its config": lambda f: edit_json(
        f / INDEX, tokenizer=["transformers", "AutoTokenizer"]
    ),
    "vae: a pipeline": lambda f: edit_json(f / INDEX, vae=["diffusers", "DiffusionPipeline"]),
    "a surplus part": lambda f: edit_json(f / INDEX, more=["evil_installed", "Evil"]),
    "vae: code named diffusers.py": as_library("vae"),
    "None.py": lambda f: (f / "None.py").write_text(EVIL) and None,
    "the pipeline: its own": lambda f: edit_json(f / INDEX, _class_name=["evil", "Evil"]),
    "the pipeline: no pipeline": lambda f: edit_json(f / INDEX, _class_name="UNet2DModel"),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_no_code_that_a_pipeline_names(pipeline: Path, mark: Path, seen: Seen, name: str) -> None:
    PIPELINES[name](pipeline)
    with pytest.raises(InputError) as caught:
        load_pipeline(pipeline)
    seen(f"pipeline, {name}", "one line, nothing run", f"one line, run: {mark.exists()}")
    assert not mark.exists()
    assert "\n" not in str(caught.value)
    assert "evil_installed" not in sys.modules


def test_paths_stay_inside(teacher: Path, seen: Seen) -> None:
    """The network's key, and the files of shards."""
    outside = teacher.parent / "outside"
    shutil.copytree(teacher / "unet", outside)
    index = json.loads((teacher / INDEX).read_text())
    own = index.pop("unet")
    for key in ("../outside", str(outside), "unet/../../outside", "..\\outside"):
        (teacher / INDEX).write_text(json.dumps({**index, key: own}))
        with pytest.raises(InputError, match="must name files and parts inside its folder alone"):
            find_network(teacher)
        seen(f"teacher's key {key!r}"[:40], "refused", "refused")
    (teacher / INDEX).write_text(json.dumps({**index, "unet": own}))
    shutil.rmtree(teacher / "unet")
    mlp().save_pretrained(teacher / "unet", max_shard_size="1KB")
    place = teacher / "unet" / f"{WEIGHTS}.index.json"
    shards = json.loads(place.read_text())
    for leads_out in ("../../outside/", f"{outside}/"):
        files = {key: leads_out + file for key, file in shards["weight_map"].items()}
        edit_json(place, weight_map=files)
        with pytest.raises(InputError, match="must name files and parts inside its folder alone"):
            load_teacher(teacher, 4)
        seen(f"shards in {leads_out[:12]}", "refused", "refused")


def test_adapters_and_tables_stay_inside(tmp_path: Path, seen: Seen) -> None:
    index: dict[str, Any] = {"format": "opmerge.lora", "version": 1, "teacher": str(tmp_path)}
    index |= {"rank": 2, "target_modules": ["proj"], "adapters": ["../outside"]}
    student = save_student(one_step(mlp()), tmp_path / "student")
    shutil.copytree(student / "scheduler", student / "jumps")
    edit_json(student / "lora.json", **index)
    with pytest.raises(InputError, match="must name files and parts inside its folder"):
        load_student(student)
    seen("an adapter ../outside", "refused", "refused")
    law = LAW_PRIORS["mlp"].centre
    place = tmp_path / "calibration.json"
    fitted = FittedLaw(law, (law,), 0.1, "a test").to_dict()
    table = {"file": "../table.npz", "sha256": ""}
    edit_json(place, format="opmerge.calibration", version=2, law=fitted, table=table)
    with pytest.raises(InputError, match="must name files and parts inside its folder"):
        read_calibration(place)
    seen("a calibration's table ../table.npz", "refused", "refused")


def test_links_of_a_hubs_cache_are_followed(teacher: Path, tmp_path: Path, seen: Seen) -> None:
    """As huggingface_hub lays it: every file of a snapshot is a link to a blob beside it."""
    expected = load_teacher(teacher, 4).digest
    cached = tmp_path / "models--someone--model"
    (cached / "blobs").mkdir(parents=True)
    for number, path in enumerate(p for p in sorted(teacher.rglob("*")) if p.is_file()):
        blob = shutil.copy(path, cached / "blobs" / str(number))
        link = cached / "snapshots" / "abc" / path.relative_to(teacher)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    got = load_teacher(cached, 4).digest
    seen("a hub's cache of links", expected[:8], got[:8])
    assert got == expected


class Own(ModelMixin, ConfigMixin):
    """A network of one's own."""

    @register_to_config
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.layer(sample)


def test_a_class_of_ones_own_that_is_imported_is_read(tmp_path: Path) -> None:
    student = one_step(scrambled(Own()))
    again = load_student(save_student(student, tmp_path / "student"))
    noise = initial_noise((4,), 3, seed=0)
    assert torch.equal(again.sample(noise), student.sample(noise))


def missing(folder: Path) -> str:
    place = folder / "unet" / WEIGHTS
    weights = load_file(place)
    save_file({k: weights[k] for k in weights if k != "proj_out.bias"}, place, {"format": "pt"})
    return "missing in them), got proj_out.bias"


def config(message: str, **changes: Any) -> Callable[[Path], str]:
    return lambda folder: edit_json(folder / "unet" / "config.json", **changes) or message


FITS = "must hold a readable config and the weights that fit it"
WEIGHTS_OFF: dict[str, Callable[[Path], str]] = {
    "num_layers 0": config("unexpected in them), got blocks.0", num_layers=0),
    "num_layers 3": config("missing in them), got blocks.2", num_layers=3),
    "a missing tensor": missing,
    "a wider layer": config(FITS, hidden_size=16),
    "classes": config("missing in them), got class_embedding.weight", num_classes=3),
    "another shape": config(FITS, sample_shape=[5]),
    "a shape of the index": lambda f: (
        edit_json(f / INDEX, sample_shape=[2, 2]) or "sample_shape (2, 2), and that of unet (4,)"
    ),
    "no whole shape": lambda f: (
        edit_json(f / INDEX, sample_shape=[0.5]) or "`sample_shape` must be"
    ),
}


@pytest.mark.parametrize("name", WEIGHTS_OFF)
def test_weights_are_those_of_the_config(student: Path, run: Run, seen: Seen, name: str) -> None:
    message = WEIGHTS_OFF[name](student)
    status, _, err = run("sample", student, "--output", student.parent / "s.npy")
    seen(f"student, {name}", "exit 2, one line", f"exit {status}, {err.count(chr(10))} line")
    assert (status, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (student.parent / "s.npy").exists()
