"""Students as diffusers pipelines: the same bits as the sampler, before and after the disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    MiniMaxH3Scheduler,
    UNet2DModel,
)
from torch import nn
from torch_helpers import files_up_to

from opmerge.denoisers.families import class_rows
from opmerge.denoisers.models import Jump, Student, Teacher, initial_noise
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation.pipeline import (
    FewStepPipeline,
    check_can_be_saved,
    load_student,
    save_student,
)
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.distillation.stages import plan_stages
from opmerge.errors import InputError
from opmerge.plans import Plan
from opmerge.schedules import cosine_schedule
from opmerge.settings.types import PredictionType

SHAPE = (1, 8, 8)


def unet(seed: int) -> UNet2DModel:
    torch.manual_seed(seed)
    return make_unet(SHAPE, (8, 16)).requires_grad_(False).eval()


def mlp(seed: int, shape: tuple[int, ...], num_classes: int | None = None) -> MLPDenoiser:
    torch.manual_seed(seed)
    network = MLPDenoiser(shape, hidden_size=16, num_layers=1, num_classes=num_classes)
    nn.init.normal_(network.proj_out.weight)  # it starts at zero, where all networks are equal
    return network.requires_grad_(False).eval()


def trailing(prediction_type: str = "v_prediction") -> DDIMScheduler:
    return DDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type
    )


def three_jumps(prediction_type: str = "v_prediction") -> Student:
    """Two networks in turn, landing at the stop, and (operator copy) before it."""
    ddim = DDIM.from_scheduler(trailing(prediction_type), 8)
    first, second = ddim.denoiser(unet(0)), ddim.denoiser(unet(1))
    jumps = (Jump(first, 8, 5, 7), Jump(second, 5, 2, 2), Jump(first, 2, 0, 0))
    return Student(jumps, ddim, SHAPE)


def one_jump(network: nn.Module, ddim: DDIM, *shape_and_needs: Any) -> Student:
    """From the last step to the data."""
    jump = Jump(ddim.denoiser(network), ddim.num_steps, 0, 0)
    return Student((jump,), ddim, *shape_and_needs)


def test_the_saved_student_gives_the_same_bits(tmp_path: Path) -> None:
    student = three_jumps()
    folder = save_student(student, tmp_path / "student")
    loaded = load_student(folder)
    noise = initial_noise(SHAPE, 3, seed=0)
    assert torch.equal(loaded.sample(noise), student.sample(noise))
    assert loaded.jumps[0].network is loaded.jumps[2].network is not loaded.jumps[1].network
    steps = [(jump.start, jump.stop, jump.readout) for jump in loaded.jumps]
    assert steps == [(8, 5, 7), (5, 2, 2), (2, 0, 0)]
    assert (loaded.sample_shape, loaded.num_classes) == (SHAPE, None)
    assert loaded.ddim.num_steps == 8
    assert torch.isnan(loaded.ddim.alphas[[1, 3, 4, 6]]).all()  # no jump reads or lands there


def test_the_pipeline_gives_the_samplers_bits_as_images() -> None:
    student = three_jumps()
    pipeline = FewStepPipeline.from_student(student)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(SHAPE, 2, seed=0)
    expected = (student.sample(noise) / 2 + 0.5).clamp(0, 1)
    tensor = pipeline(latents=noise, output_type="pt").images
    assert torch.equal(tensor, expected)
    (array,) = pipeline(latents=noise, output_type="np", return_dict=False)
    assert np.array_equal(array, expected.permute(0, 2, 3, 1).numpy())
    pictures = pipeline(latents=noise).images
    assert np.array_equal(np.asarray(pictures[1]), np.round(array[1, :, :, 0] * 255))


def test_a_pipeline_on_a_device_holds_a_student_there() -> None:
    """The device without memory is one that every machine has."""
    pipeline = FewStepPipeline.from_student(three_jumps()).to("meta")
    student = pipeline.student()
    assert student.ddim.alphas.device.type == "meta"
    assert student.sample(torch.empty(2, *SHAPE, device="meta")).shape == (2, *SHAPE)


def test_a_sampler_that_is_moved_stays_where_it_was_as_well() -> None:
    noise = initial_noise(SHAPE, 2, seed=0)
    teacher = Teacher(unet(0), DDIM.from_scheduler(trailing(), 8), SHAPE)
    for sampler in (teacher, three_jumps()):
        before = sampler.sample(noise)
        moved = sampler.to(torch.device("meta"))
        assert moved.sample(noise.to("meta")).device.type == "meta"
        assert torch.equal(sampler.sample(noise), before)
    first, second, third = moved.jumps
    assert first.network is third.network is not second.network
    assert teacher.to(torch.device("cpu")).network is teacher.network


def test_generators_make_the_noise() -> None:
    pipeline = FewStepPipeline.from_student(three_jumps())
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    both = pipeline(2, generator=generators, output_type="pt").images
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(5))
    alone = pipeline(latents=noise, output_type="pt").images
    torch.testing.assert_close(both[1:], alone)  # batches of another size may round otherwise


@pytest.mark.parametrize("shape", [(5,), (4, 4)])
def test_other_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Vectors are given as they are; two axes are a grey image."""
    ddim = DDIM.from_schedule(cosine_schedule(4), "v_prediction")
    student = one_jump(mlp(0, shape), ddim, shape)
    loaded = load_student(save_student(student, tmp_path / "student"))
    noise = initial_noise(shape, 2, seed=0)
    expected = student.sample(noise)
    assert torch.equal(loaded.sample(noise), expected)
    pipeline = FewStepPipeline.from_student(student)
    pipeline.set_progress_bar_config(disable=True)
    array = pipeline(latents=noise, output_type="np").images
    if len(shape) == 1:
        assert np.array_equal(array, expected.numpy())
        with pytest.raises(InputError, match=r"`output_type` must be np or pt .* \(5,\)"):
            pipeline(latents=noise)
    else:
        assert np.array_equal(array, (expected / 2 + 0.5).clamp(0, 1).numpy())
        assert pipeline(latents=noise).images[0].size == (4, 4)


def test_class_labels_reach_the_networks(tmp_path: Path) -> None:
    ddim = DDIM.from_schedule(cosine_schedule(4), "sample")
    student = one_jump(mlp(0, (5,), 3), ddim, (5,), class_rows(3))
    folder = save_student(student, tmp_path / "student")
    assert load_student(folder).num_classes == 3
    pipeline = FewStepPipeline.from_student(student)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise((5,), 2, seed=0)
    labels = torch.tensor([2, 0])
    found = pipeline(latents=noise, class_labels=[2, 0], output_type="pt").images
    assert torch.equal(found, student.sample(noise, labels))
    ones = pipeline(latents=noise, class_labels=1, output_type="pt").images
    assert torch.equal(ones, student.sample(noise, torch.tensor([1, 1])))
    for wrong in (None, 3, [0, -1]):
        with pytest.raises(InputError, match="`class_labels` must be in 0 … 2"):
            pipeline(latents=noise, class_labels=wrong, output_type="pt")
    unlabelled = FewStepPipeline.from_student(three_jumps())
    with pytest.raises(InputError, match="`class_labels` must be left out"):
        unlabelled(class_labels=1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_step_is_the_samplers_jump(prediction_type: PredictionType, tmp_path: Path) -> None:
    """The same bits as DDIM.land of DDIM.estimate, with coefficients that went through JSON."""
    student = three_jumps(prediction_type)
    JumpScheduler.from_student(student, ["unet", "unet_2", "unet"]).save_pretrained(tmp_path)
    scheduler = JumpScheduler.from_pretrained(tmp_path)
    z = initial_noise(SHAPE, 2, seed=0)
    for jump, timestep in zip(student.jumps, scheduler.timesteps, strict=True):
        said = jump.network(z, timestep).sample
        stepped = scheduler.step(said, timestep, scheduler.scale_model_input(z, timestep))
        estimate = jump.denoiser(z, jump.start)
        assert torch.equal(stepped.prev_sample, student.ddim.land(estimate, jump.readout))
        assert torch.equal(stepped.pred_original_sample, estimate.x0)
        z = scheduler.step(said, int(timestep), z, return_dict=False)[0]


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(sigma_max=20.0),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        MiniMaxH3Scheduler(shift=1.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_students_of_other_samplers_keep_their_bits(scheduler: Any, tmp_path: Path) -> None:
    """Preconditioned networks and times that are no whole numbers, through the disk; and a plain
    loop of diffusers around one network."""
    ddim = DDIM.from_scheduler(scheduler, 8)
    first, second = ddim.denoiser(unet(0)), ddim.denoiser(unet(1))
    jumps = (Jump(first, 8, 5, 7), Jump(second, 5, 2, 2), Jump(first, 2, 0, 0))
    student = Student(jumps, ddim, SHAPE)
    loaded = load_student(save_student(student, tmp_path / "student"))
    noise = initial_noise(SHAPE, 2, seed=0)
    assert ddim.timesteps.is_floating_point()
    assert torch.equal(loaded.sample(noise), student.sample(noise))
    assert torch.equal(loaded.ddim.timesteps[[8, 5, 2]], ddim.timesteps[[8, 5, 2]])
    one = replace(student, jumps=tuple(replace(jump, denoiser=first) for jump in jumps))
    pipeline = FewStepPipeline.from_student(one)
    z = noise
    for timestep in pipeline.scheduler.timesteps:
        read = pipeline.scheduler.scale_model_input(z, timestep)
        output = pipeline.unet(read, timestep.expand(2)).sample
        z = pipeline.scheduler.step(output, timestep, z).prev_sample
    assert torch.equal(z, one.sample(noise))


def test_scheduler_interface() -> None:
    student = three_jumps()
    scheduler = JumpScheduler.from_student(student, ["unet", "unet_2", "unet"])
    assert scheduler.timesteps.tolist() == [999, 624, 249]  # trailing: 1000 · start / 8 - 1
    assert scheduler.init_noise_sigma == 1.0
    scheduler.set_timesteps(3)
    with pytest.raises(InputError, match="`num_inference_steps` must be 3"):
        scheduler.set_timesteps(4)
    z = initial_noise(SHAPE, 2, seed=0)
    with pytest.raises(InputError, match="`timestep` must be one of 999, 624, 249, got 998"):
        scheduler.step(z, 998, z)
    noisy = scheduler.add_noise(z, z.flip(0), torch.tensor([624, 249]))
    expected = student.ddim.add_noise(z, z.flip(0), torch.tensor([5, 2]))
    assert torch.equal(noisy, expected)
    jumps = scheduler.jumps
    with pytest.raises(InputError, match="must follow one another from step 8 to 0"):
        JumpScheduler(jumps[1:], "sample", 8)
    with pytest.raises(InputError, match=r"`jumps\[0\]` must have network"):
        JumpScheduler([{"start": 8}], "sample", 8)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_a_one_step_student_runs_under_ddims_own_scheduler(tmp_path: Path, spacing: str) -> None:
    """Denoiser copy, read at 999, 875 and 999: the images of DDIMPipeline are the same bits."""
    scheduler = DDIMScheduler.from_config(trailing().config, timestep_spacing=spacing)
    student = one_jump(unet(0), DDIM.from_scheduler(scheduler, 8), SHAPE)
    folder = save_student(student, tmp_path / "student")
    theirs = DDIMPipeline(
        unet=UNet2DModel.from_pretrained(folder, subfolder="unet"),
        scheduler=DDIMScheduler.from_config(
            scheduler.config,
            timestep_spacing="leading",
            steps_offset={"trailing": 999, "leading": 875, "linspace": 999}[spacing],
        ),
    )
    ours = FewStepPipeline.from_pretrained(folder)
    images = []
    for pipeline, steps in ((theirs, {"num_inference_steps": 1}), (ours, {})):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipeline(3, generator=generator, output_type="np", **steps).images)
    assert np.array_equal(*images)


def snippets() -> list[str]:
    """The Python of docs/how_to/use_student.md."""
    text = (Path(__file__).parents[3] / "docs" / "how_to" / "use_student.md").read_text(
        encoding="utf-8"
    )
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_documented_routes_give_the_pipelines_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal seeds of torch are equal noise; the teacher's spacing is diffusers' default."""
    monkeypatch.chdir(tmp_path)
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    ddim = DDIM.from_scheduler(scheduler, 4)
    pipeline, _, stock, step = snippets()  # of texts: test_own_pipeline.py
    names: dict[str, Any] = {}
    found = []
    for network, codes in ((unet(0), (pipeline, stock)), (mlp(0, SHAPE), (pipeline, step))):
        write_teacher_folder(Path("path/to/model"), network, scheduler)
        save_student(one_jump(network, ddim, SHAPE), Path("runs/student/student"))
        for code in codes:
            torch.manual_seed(0)
            exec(compile(code, "use_student.md", "exec"), names)
            found.append(names["images"])
    ours, theirs, ours_of_mlp, _ = found
    assert len(ours) == 4
    assert all(map(np.array_equal, theirs, ours))
    assert not np.array_equal(ours[0], ours[1])
    stepped = names["samples"][:, 0].div(2).add(0.5).clamp(0, 1).mul(255).round().numpy()
    assert all(map(np.array_equal, stepped, ours_of_mlp))


def test_diffusers_opens_the_folder_by_itself(tmp_path: Path) -> None:
    student = three_jumps()
    folder = save_student(student, tmp_path / "student")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is FewStepPipeline is diffusers.FewStepPipeline  # type: ignore[attr-defined]
    noise = initial_noise(SHAPE, 2, seed=0)
    assert torch.equal(pipeline.student().sample(noise), student.sample(noise))


def test_diffusers_opens_the_folder_where_opmerge_was_never_imported(tmp_path: Path) -> None:
    folder = save_student(three_jumps(), tmp_path / "student")
    program = (
        "import sys; from diffusers import DiffusionPipeline\n"
        "assert 'opmerge' not in sys.modules\n"
        f"p = DiffusionPipeline.from_pretrained({str(folder)!r}, custom_pipeline='pipeline',"
        " trust_remote_code=True)\n"
        "print(type(p).__name__, len(p.student().jumps))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["FewStepPipeline", "3"], done.stderr


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = save_student(three_jumps(), tmp_path / "student")
    other = one_jump(unet(5), three_jumps().ddim, SHAPE)
    with files_up_to(1000), pytest.raises(InputError, match=r"cannot be written .*File too large"):
        save_student(other, folder)
    assert len(load_student(folder).jumps) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    save_student(other, folder)
    assert len(load_student(folder).jumps) == 1
    assert not (folder / "unet_2").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_teacher_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = write_teacher_folder(tmp_path / "teacher", mlp(0, (5,)), trailing())
    digest = load_teacher(folder, 4).digest
    with files_up_to(1000), pytest.raises(InputError, match=r"cannot be written .*File too large"):
        write_teacher_folder(folder, mlp(1, (5,)), trailing())
    assert load_teacher(folder, 4).digest == digest
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_what_has_no_room_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    """Two networks of 2^50 equal numbers, of which memory holds one."""
    network = mlp(0, (5,))
    network.register_buffer("large", torch.zeros(1).expand(2**50))
    teacher = Teacher(network, DDIM.from_schedule(cosine_schedule(4), "sample"), (5,))
    plan, small = Plan.from_nested([[4, 3], [2, 1]]), Teacher(mlp(0, (5,)), teacher.ddim, (5,))
    stages, folder = plan_stages(plan, "merge"), tmp_path / "run" / "student"
    check_can_be_saved(small, plan, stages, folder)
    own = sum(weight.nbytes for weight in small.network.state_dict().values())
    message = (
        rf"`{folder}` must have room for {2 * (2**52 + own):,} bytes, got [\d,]+ free; "
        "make room or choose another place$"
    )
    with pytest.raises(InputError, match=message):
        check_can_be_saved(teacher, plan, stages, folder)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("work of years")
    with pytest.raises(InputError, match="must be new, empty or the folder of a student"):
        save_student(three_jumps(), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    ddim = DDIM.from_schedule(cosine_schedule(9), "sample")
    plain = one_jump(nn.Identity(), ddim, (5,))
    with pytest.raises(InputError, match=r"derive from diffusers' ModelMixin.*got Identity"):
        save_student(plain, tmp_path / "student")
    jumps = tuple(Jump(ddim.denoiser(mlp(t, (5,))), t, t - 1, t - 1) for t in range(9, 0, -1))
    with pytest.raises(InputError, match=r"at most 8 networks.*got 9"):
        save_student(Student(jumps, ddim, (5,)), tmp_path / "student")
    eight = (*jumps[:7], Jump(jumps[7].denoiser, 2, 0, 0))
    assert len(load_student(save_student(Student(eight, ddim, (5,)), tmp_path / "s")).jumps) == 8


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the folder of a student"):
        load_student(tmp_path)
    folder = save_student(three_jumps(), tmp_path / "student")
    weights = folder / "unet_2" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="must hold a readable config and the weights that fit"):
        load_student(folder)
    torch.save(unet(1).state_dict(), weights.with_suffix(".bin"))  # pickled: not even looked at
    weights.unlink()
    with pytest.raises(InputError, match=r"must exist \(weights in .bin files are not read"):
        load_student(folder)
    (folder / "unet_2").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="must have the part unet_2/"):
        load_student(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDIMPipeline"}))
    with pytest.raises(InputError, match="must be the folder of a student"):
        load_student(folder)


def test_noise_of_another_shape() -> None:
    pipeline = FewStepPipeline.from_student(three_jumps())
    with pytest.raises(InputError, match=r"`latents` must have shape \(B, 1, 8, 8\)"):
        pipeline(latents=torch.zeros(2, 8, 8))
    with pytest.raises(InputError, match="`output_type` must be pil, np or pt, got latent"):
        pipeline(output_type="latent")
