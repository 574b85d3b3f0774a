"""Model cards of students: read back by the hub's own reader, and their code run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from PIL import Image
from tiny_pipelines import PROMPTS, tiny_pipeline

from opmerge import Plan, build_strategy
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.model_folder import hub_name
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation import load_student, save_student
from opmerge.distillation.adapters import Adapters, trainable_copy
from opmerge.distillation.costs import network_evaluations
from opmerge.distillation.executor import Distillation
from opmerge.distillation.model_card import Making, add_measured, add_pair, add_samples
from opmerge.plans import draw_text
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T = 4
BATCH, ITERATIONS = 8, 5
TEACHERS_CARD = """---
license: other
license_name: its-own
license_link: LICENSE.md
language: [en]
---
# A teacher
"""


def write_teacher(folder: Path) -> Path:
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        norm_num_groups=2,
        add_attention=False,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    return write_teacher_folder(folder, network, DDIMScheduler(clip_sample=False))


def distillation(teacher: Teacher, plan: Plan, **settings: Any) -> Distillation:
    optimization = OptimizationConfig(train_batch_size=BATCH, checkpointing_steps=0)
    config = DistillationConfig(
        num_iterations=ITERATIONS,
        optimization=optimization,
        linear_part="train",
        target_reuse=1,
        **settings,
    )
    data = DataInputs(torch.randn(16, *teacher.sample_shape))
    run = Distillation(teacher, plan, data, config, Accelerator(cpu=True))
    for _ in run.run():
        pass
    return run


def code_of(folder: Path, language: str = "python") -> str:
    """The first block of code in a card."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def run_code(folder: Path, **names: Any) -> Any:
    """What the code of a card calls ``images``."""
    space: dict[str, Any] = {"FOLDER": f"{folder}", "PROMPT": PROMPTS[0], **names}
    exec(code_of(folder), space)
    return space["images"]


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card, as the hub's reader has them."""
    card = ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.text


def test_card_of_a_run_tells_what_was_spent_and_its_code_runs(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "small"), T)
    plan = build_strategy("boot", T, 2)
    run = distillation(teacher, plan)
    making = Making.of(run, "somewhere/of/mine/images/", budget="2h")
    folder = save_student(run.student(), tmp_path / "student", teacher, making=making)
    data, text = read(folder)
    assert data == {
        "library_name": "diffusers",
        "model_name": "small-2-step",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["opmerge", "distillation", "few-step"],
    }
    assert f"```text\n{draw_text(plan).rstrip()}\n```" in text
    targets = 2 * 2  # children of a merge, of which the plan has two
    cost = BATCH * ITERATIONS * (targets + 2 * 3)
    assert network_evaluations(run) == cost
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE))
    assert rows["network evaluations"] == f"{cost} of a sample"
    assert rows["iterations"] == f"{2 * ITERATIONS} of {BATCH} samples"
    assert (rows["data"], rows["budget of the whole run"]) == ("images", "2h")
    assert "somewhere" not in text
    with Image.open(folder / "plan.png") as picture:
        assert min(picture.size) > 200
    images = run_code(folder)
    assert [image.size for image in images] == 4 * [(4, 4)]


def test_what_is_measured_and_shown_takes_its_place_in_the_card(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "small"), T)
    jump = Jump(teacher.ddim.denoiser(teacher.network), T, 0, 0)
    student = Student((jump,), teacher.ddim, teacher.sample_shape)
    folder = save_student(student, tmp_path / "student", teacher)
    heads = ["Use", "Plan", "Measured", "Limits"]
    assert re.findall(r"^## (.+)$", read(folder)[1], re.MULTILINE) == heads
    for value in (0.5, 0.25):
        add_measured(folder, {"error": f"{value}"}, {"paired_rms": value}, "9 samples")
    for _ in range(2):
        add_pair(folder, torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 4, 4), T, 1)
    data, text = read(folder)
    (model,) = data["model-index"]
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "paired_rms", "value": 0.25}]
    assert "| error | 0.25 |" in text
    assert "0.5" not in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [*heads[:3], "Samples", "Limits"]
    assert data["widget"][0]["output"] == {"url": "samples.png"}
    with Image.open(folder / "samples.png") as picture:
        assert picture.size == (42 * 12, 42 * 8)  # about 512 wide
    assert load_student(folder).num_steps == T


def test_a_folder_without_a_card_gets_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine, without metadata\n", encoding="utf-8")
    assert add_measured(tmp_path, {}, {}, "") is None
    assert add_samples(tmp_path / "none", b"", "") is None
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_licence_and_base_of_a_model_of_the_hub_are_passed_on(tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--a.model" / "snapshots" / "1234"
    write_teacher(cached)
    (cached / "README.md").write_text(TEACHERS_CARD, encoding="utf-8")
    (tmp_path / "secret").write_text("no licence")
    (cached / "LICENSE.txt").symlink_to(tmp_path / "secret")
    teacher = load_teacher(cached, T)
    run = distillation(teacher, build_strategy("vanilla", T))
    data, _ = read(save_student(run.student(), tmp_path / "student", teacher))
    assert (data["base_model"], data["base_model_relation"]) == ("owner/a.model", "finetune")
    assert (data["license"], data["license_name"]) == ("other", "its-own")
    assert data["license_link"] == "https://huggingface.co/owner/a.model/blob/main/LICENSE.md"
    assert data["language"] == ["en"]
    assert data["model_name"] == "a.model-1-step"
    assert not (tmp_path / "student" / "LICENSE.txt").exists()


def test_licence_of_a_local_teacher_goes_along(tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "small"), T)
    (tmp_path / "small" / "README.md").write_text(TEACHERS_CARD, encoding="utf-8")
    (tmp_path / "small" / "LICENSE.md").write_text("its terms", encoding="utf-8")
    run = distillation(teacher, build_strategy("vanilla", T))
    folder = save_student(run.student(), tmp_path / "student", teacher)
    assert read(folder)[0]["license_link"] == "LICENSE.md"
    assert (folder / "LICENSE.md").read_text(encoding="utf-8") == "its terms"


@pytest.mark.parametrize("card", ["---\n: [\n---\n", "---\n- a list\n---\n", "---\nlicense: [\n"])
def test_a_damaged_card_of_a_teacher_is_left_out(card: str, tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "small"), T)
    (tmp_path / "small" / "README.md").write_text(card, encoding="utf-8")
    run = distillation(teacher, build_strategy("vanilla", T))
    assert "license" not in read(save_student(run.student(), tmp_path / "student", teacher))[0]


def test_vectors_have_no_task_and_a_call_that_gives_arrays(tmp_path: Path) -> None:
    network = MLPDenoiser((4,), hidden_size=8, num_layers=1)
    write_teacher_folder(tmp_path / "teacher", network, DDIMScheduler(clip_sample=False))
    teacher = load_teacher(tmp_path / "teacher", T)
    run = distillation(teacher, build_strategy("vanilla", T))
    folder = save_student(run.student(), tmp_path / "student", teacher)
    assert "pipeline_tag" not in read(folder)[0]
    assert run_code(folder).shape == (4, 4)


@pytest.mark.parametrize("nested", [[[4, 3, 2, 1]], [[4, 3], [2, 1]]], ids=["one", "two"])
def test_cards_of_adapters(nested: Any, tmp_path: Path) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "small"), T)
    run = distillation(teacher, Plan.from_nested(nested), lora_rank=2)
    folder = save_student(run.student(), tmp_path / "student", teacher)
    data, _ = read(folder)
    assert "lora" in data["tags"]
    assert len(run_code(folder)) == 4


def text_student(teacher: Teacher, is_adapted: bool) -> Student:
    network: Any = teacher.network
    if is_adapted:
        network = trainable_copy(network, Adapters(2), torch.Generator().manual_seed(0))
    jump = Jump(teacher.ddim.denoiser(network), T, 0, 0)
    return Student((jump,), teacher.ddim, teacher.sample_shape, teacher.needs)


@pytest.mark.parametrize("is_adapted", [False, True], ids=["whole", "adapters"])
def test_cards_of_text_models(is_adapted: bool, tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--text" / "snapshots" / "1234"
    tiny_pipeline("stable_diffusion").save_pretrained(cached)
    teacher = load_teacher(cached, T)
    folder = save_student(text_student(teacher, is_adapted), tmp_path / "student", teacher)
    data, _ = read(folder)
    assert (data["pipeline_tag"], data["base_model"]) == ("text-to-image", "owner/text")
    assert data["base_model_relation"] == ("adapter" if is_adapted else "finetune")
    assert len(run_code(folder, TEACHER=f"{cached}")) == 1


def test_names_of_the_hub_are_those_of_its_cache_alone(tmp_path: Path) -> None:
    place = tmp_path / "models--owner--a-b_c.1" / "snapshots" / "abc"
    place.mkdir(parents=True)
    assert hub_name(place) == "owner/a-b_c.1"
    assert hub_name(tmp_path) is None
    assert hub_name(tmp_path / "models--nothing") is None
