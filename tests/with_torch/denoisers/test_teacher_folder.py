"""Teachers in folders against diffusers' own pipelines and scheduler steps, bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    UNet1DModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from torch_helpers import scrambled

from opmerge import cosine_schedule, diffusers_schedule
from opmerge.denoisers.denoiser import as_condition
from opmerge.denoisers.models import Teacher, compose, initial_noise
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import (
    check_plan_fits,
    load_teacher,
    write_teacher_folder,
)
from opmerge.errors import InputError

NO_CLIP: dict[str, Any] = {"clip_sample": False}
CONFIG, WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def tiny_unet(**config: Any) -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=config.pop("out_channels", 1),
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            **config,
        ).eval()


def tiny_dit() -> DiTTransformer2DModel:
    return scrambled(
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=2,
            out_channels=4,
            num_layers=2,
            sample_size=4,
            num_embeds_ada_norm=3,
            norm_num_groups=1,
        )
    )


def tiny_mlp(num_classes: int | None = None) -> MLPDenoiser:
    return scrambled(MLPDenoiser([1, 2, 2], 16, 2, num_classes))


def steps_of_diffusers(
    network: Any, scheduler: DDIMScheduler, num_steps: int, z: Any, labels: Any = None
) -> list[Any]:
    """The states that DDIMScheduler.step goes through, noise side first."""
    scheduler.set_timesteps(num_steps)
    states, given = [z], {} if labels is None else {"class_labels": labels}
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = network(states[-1], timestep.expand(len(z)), **given).sample
            output = output[:, : z.shape[1]]
            states.append(scheduler.step(output, timestep, states[-1]).prev_sample)
    return states


def assert_same_bits(teacher: Teacher, states: list[Any], labels: Any = None) -> None:
    """Sampling, and every single hop, against the states of diffusers."""
    assert not torch.equal(states[0], states[-1])
    assert torch.isfinite(states[-1]).all()
    assert torch.equal(teacher.sample(states[0], labels), states[-1])
    for jump, before, after in zip(teacher.steps(), states[:-1], states[1:], strict=True):
        assert torch.equal(
            compose(teacher.ddim, [[jump]], before, condition=as_condition(labels)), after
        )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("config", "num_steps"),
    [
        ({}, 10),
        ({"steps_offset": 1}, 20),
        ({"steps_offset": 1, "set_alpha_to_one": False}, 10),
        ({"timestep_spacing": "trailing"}, 25),
        ({"timestep_spacing": "trailing", "set_alpha_to_one": False}, 8),
        ({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}, 1),
        # Linspace lands on its own timesteps only where every timestep is taken.
        ({"timestep_spacing": "linspace", "num_train_timesteps": 30}, 30),
    ],
)
def test_replay_is_that_of_diffusers_bit_for_bit(
    tmp_path: Path, config: dict[str, Any], num_steps: int, prediction_type: str
) -> None:
    scheduler = DDIMScheduler(**NO_CLIP, prediction_type=prediction_type, **config)
    network = tiny_mlp()
    write_teacher_folder(tmp_path / "teacher", network, scheduler)
    teacher = load_teacher(tmp_path / "teacher", num_steps)
    assert (teacher.num_steps, teacher.sample_shape) == (num_steps, (1, 2, 2))
    z = initial_noise(teacher.sample_shape, 3, seed=1)
    assert_same_bits(teacher, steps_of_diffusers(network, scheduler, num_steps, z))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_saved_pipeline_samples_as_diffusers_samples_from_it(
    tmp_path: Path, spacing: str, prediction_type: str
) -> None:
    scheduler = DDIMScheduler(**NO_CLIP, timestep_spacing=spacing, prediction_type=prediction_type)
    DDIMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path)
    pipeline = DDIMPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        2, torch.Generator().manual_seed(5), num_inference_steps=4, output_type="pt"
    ).images
    teacher = load_teacher(tmp_path, 4)
    z = torch.randn((2, *teacher.sample_shape), generator=torch.Generator().manual_seed(5))
    assert torch.equal((teacher.sample(z) / 2 + 0.5).clamp(0, 1), images)
    assert_same_bits(teacher, steps_of_diffusers(pipeline.unet, pipeline.scheduler, 4, z))


@pytest.mark.parametrize(
    ("make", "num_classes", "shape"),
    [
        (lambda: tiny_unet(num_class_embeds=3), 3, (1, 8, 8)),
        (lambda: tiny_unet(out_channels=2), None, (1, 8, 8)),
        (lambda: tiny_mlp(5), 5, (1, 2, 2)),
        (tiny_dit, 3, (2, 4, 4)),
    ],
    ids=["class-conditional UNet", "UNet, learned variance", "MLP", "DiT, learned variance"],
)
def test_networks_with_classes_and_learned_variance(
    tmp_path: Path, make: Callable[[], Any], num_classes: int | None, shape: tuple[int, ...]
) -> None:
    network, scheduler = make(), DDIMScheduler(**NO_CLIP)
    write_teacher_folder(tmp_path / "teacher", network, scheduler)
    teacher = load_teacher(tmp_path / "teacher", 5)
    assert (teacher.num_classes, teacher.sample_shape) == (num_classes, shape)
    z = initial_noise(shape, 3, seed=2)
    labels = None if num_classes is None else torch.tensor([0, 1, num_classes - 1])
    assert_same_bits(teacher, steps_of_diffusers(network, scheduler, 5, z, labels), labels)
    if labels is not None:
        assert not torch.equal(teacher.sample(z, labels.flip(0)), teacher.sample(z, labels))


def test_the_null_class_of_dit_is_the_index_after_its_classes(tmp_path: Path) -> None:
    write_teacher_folder(tmp_path / "teacher", tiny_dit(), DDIMScheduler(**NO_CLIP))
    teacher = load_teacher(tmp_path / "teacher", 2)
    z = initial_noise(teacher.sample_shape, 1, seed=0)
    assert teacher.num_classes is not None
    samples = [teacher.sample(z, torch.tensor([label])) for label in range(4)]
    assert all(not torch.equal(samples[3], other) for other in samples[:3])
    with pytest.raises(IndexError):
        teacher.sample(z, torch.tensor([teacher.num_classes + 1]))


def test_a_dit_saved_by_old_diffusers_is_read(tmp_path: Path) -> None:
    write_teacher_folder(tmp_path / "teacher", tiny_dit(), DDIMScheduler(**NO_CLIP))
    now = load_teacher(tmp_path / "teacher", 2)
    edit(tmp_path / "teacher" / CONFIG, _class_name="Transformer2DModel", cross_attention_dim=None)
    assert load_teacher(tmp_path / "teacher", 2).digest == now.digest


def test_a_transformer_folder_is_read(tmp_path: Path) -> None:
    folder = write_teacher_folder(tmp_path / "teacher", tiny_dit(), DDIMScheduler(**NO_CLIP))
    digest = load_teacher(folder, 2).digest
    (folder / "unet").rename(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = index.pop("unet")
    index["vae"] = ["diffusers", "AutoencoderKL"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_teacher(folder, 2).digest == digest


def test_the_only_network_is_read_whatever_its_name(tmp_path: Path) -> None:
    folder = write_teacher_folder(tmp_path / "teacher", tiny_mlp(), DDIMScheduler(**NO_CLIP))
    digest = load_teacher(folder, 2).digest
    (folder / "unet").rename(folder / "denoiser")
    edit(folder / "model_index.json", denoiser=["opmerge.denoisers.networks", "MLPDenoiser"])
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_teacher(folder, 2).digest == digest
    edit(folder / "model_index.json", other=["diffusers", "UNet2DModel"])
    with pytest.raises(InputError, match=r"must name a network as unet or transformer, or one"):
        load_teacher(folder, 2)


def test_a_flat_repository_is_read(tmp_path: Path) -> None:
    network = tiny_unet()
    network.save_pretrained(tmp_path)
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path)
    z = initial_noise((1, 8, 8), 2, seed=0)
    states = steps_of_diffusers(network, DDIMScheduler(**NO_CLIP), 4, z)
    assert_close(load_teacher(tmp_path, 4).sample(z), states[-1], rtol=1e-5, atol=1e-5)


def test_half_precision_weights_are_read_in_float32(tmp_path: Path) -> None:
    folder = write_teacher_folder(tmp_path / "teacher", tiny_mlp(), DDIMScheduler(**NO_CLIP))
    halves = {key: weight.half() for key, weight in load_file(folder / WEIGHTS).items()}
    save_file(halves, folder / WEIGHTS, {"format": "pt"})
    network = load_teacher(folder, 2).network
    for key, weight in network.state_dict().items():
        assert torch.equal(weight, halves[key].float()), key
        assert weight.dtype == torch.float32


def test_weights_saved_in_one_variant_are_read(tmp_path: Path) -> None:
    """``save_pretrained(..., variant="fp16")`` as diffusers does it; the usual ones come first."""
    network = tiny_mlp()
    folder = write_teacher_folder(tmp_path / "teacher", network, DDIMScheduler(**NO_CLIP))
    tiny_mlp().half().save_pretrained(folder / "unet", variant="fp16")
    assert torch.equal(load_teacher(folder, 2).network.proj_in.weight, network.proj_in.weight)
    (folder / WEIGHTS).unlink()
    loaded = load_teacher(folder, 2).network.state_dict()
    for key, weight in network.state_dict().items():
        assert torch.equal(loaded[key], weight.half().float()), key


def test_one_dimensional_samples(tmp_path: Path) -> None:
    network = UNet1DModel(
        sample_size=64,
        in_channels=2,
        out_channels=2,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1D", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1D"),
    )
    folder = write_teacher_folder(tmp_path / "teacher", network, DDIMScheduler(**NO_CLIP))
    teacher = load_teacher(folder, 2)
    assert teacher.sample_shape == (2, 64)
    assert teacher.sample(torch.randn(1, 2, 64)).shape == (1, 2, 64)


def test_what_is_written_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(**NO_CLIP, prediction_type="v_prediction", trained_betas=[0.1, 0.5])
    folder = write_teacher_folder(tmp_path / "a" / "teacher", tiny_mlp(), scheduler)
    assert folder == tmp_path / "a" / "teacher"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "model_index.json",
        SCHEDULER,
        CONFIG,
        WEIGHTS,
    ]
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DDIMPipeline"
    assert index["unet"] == ["opmerge.denoisers.networks", "MLPDenoiser"]
    loaded = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert isinstance(loaded.unet, MLPDenoiser)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    # A pipeline that is there is replaced as a whole, and nothing is left beside it.
    (folder / "stray").write_text("")
    write_teacher_folder(folder, tiny_unet(), DDIMScheduler(**NO_CLIP))
    assert not (folder / "stray").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["teacher"]
    pipeline = DDIMPipeline.from_pretrained(folder, local_files_only=True)
    for key, weight in tiny_unet().state_dict().items():
        assert torch.equal(pipeline.unet.state_dict()[key], weight), key


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a new folder, or one of a model to be replaced"):
        write_teacher_folder(tmp_path, tiny_mlp(), DDIMScheduler(**NO_CLIP))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written .*make room"):
        write_teacher_folder(tmp_path / "taken" / "teacher", tiny_mlp(), DDIMScheduler(**NO_CLIP))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def network_alone(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    shutil.rmtree(folder / "scheduler")


def two_variants(folder: Path) -> None:
    for variant in ("ema", "non_ema"):
        shutil.copy(folder / WEIGHTS, (folder / WEIGHTS).with_suffix(f".{variant}.safetensors"))
    (folder / WEIGHTS).unlink()


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


def one_key_missing(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_out.bias"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def one_key_more(folder: Path) -> None:
    weights = {**load_file(folder / WEIGHTS), "surplus": torch.zeros(1)}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (shutil.rmtree, "`teacher` must be an existing folder"),
    "config": (lambda f: (f / CONFIG).unlink(), "unet/config.json` cannot be read"),
    "weights": (
        lambda f: (f / WEIGHTS).unlink(),
        "unet/diffusion_pytorch_model.safetensors` must exist; save the model again with",
    ),
    "scheduler": (
        lambda f: shutil.rmtree(f / "scheduler"),
        "must hold scheduler_config.json or scheduler/scheduler_config.json",
    ),
    "pickled weights": (pickled_only, "are pickled); save the model again with save_pretrained"),
    "truncated weights": (truncated, "must hold a readable config and the weights that fit it"),
    "missing key": (one_key_missing, "(missing in them), got conv_out.bias"),
    "surplus key": (one_key_more, "(unexpected in them), got surplus"),
    "other sizes": (
        lambda f: edit(f / CONFIG, block_out_channels=[16, 16]),
        "must hold a readable config and the weights that fit it",
    ),
    "impossible config": (
        lambda f: edit(f / CONFIG, block_out_channels=[16]),
        "must hold a readable config and the weights that fit it",
    ),
    "torn json": (lambda f: (f / CONFIG).write_text("{"), "must hold JSON"),
    "unknown class": (
        lambda f: edit(f / CONFIG, _class_name="Evil"),
        "must be a model class of diffusers, or MLPDenoiser, got Evil",
    ),
    "no model class": (
        lambda f: edit(f / CONFIG, _class_name="DDIMScheduler"),
        "must be a model class of diffusers",
    ),
    "no class": (lambda f: edit(f / CONFIG, _class_name=None), "must be a model class"),
    "autoencoder": (lambda f: edit(f / CONFIG, _class_name="AutoencoderKL"), "reads no timestep"),
    "no size": (lambda f: edit(f / CONFIG, sample_size=None), "must hold sample_size"),
    "class timesteps": (
        lambda f: edit(f / CONFIG, class_embed_type="identity"),
        "class_embed_type` must be null",
    ),
    "prediction": (
        lambda f: edit(f / SCHEDULER, prediction_type="x"),
        "`prediction_type` must be one of epsilon, sample, v_prediction with these noise levels, "
        "got 'x'",
    ),
    "clipping": (
        lambda f: edit(f / SCHEDULER, clip_sample=True),
        "scheduler_config.json: clip_sample` must be false: a clipped estimate of x_0 is not",
    ),
    "thresholding": (
        lambda f: edit(f / SCHEDULER, thresholding=True),
        "got true; pass `ignore_clipping` to distil it as if it were",
    ),
    "betas": (
        lambda f: edit(f / SCHEDULER, beta_schedule="of-mine"),
        "`scheduler config` must build a scheduler (DDIMScheduler says: beta_schedule of-mine",
    ),
    "flow prediction": (
        lambda f: edit(f / SCHEDULER, prediction_type="flow_prediction"),
        "`prediction_type` must be one of epsilon, sample, v_prediction with these noise levels, "
        "got 'flow_prediction'",
    ),
    "flow map": (
        lambda f: edit(f / SCHEDULER, _class_name="FlowMapEulerDiscreteScheduler"),
        "`_class_name` must tell the network one time: a flow map reads two",
    ),
    "network alone": (
        network_alone,
        "teacher` must hold model_index.json, or config.json and scheduler_config.json, got a "
        "network without its scheduler; save them together: DDIMPipeline(unet, scheduler).",
    ),
    "two variants": (
        two_variants,
        "unet/diffusion_pytorch_model.safetensors` must exist, got ema, non_ema; save the model",
    ),
    "student": (
        lambda f: edit(f / "model_index.json", _class_name="FewStepPipeline"),
        "`teacher` must be a teacher: a student takes its own steps only, got ",
    ),
    "few timesteps": (
        lambda f: edit(f / SCHEDULER, num_train_timesteps=3),
        "`num_steps` must be <= num_train_timesteps = 3",
    ),
    "epsilon at pure noise": (
        lambda f: edit(f / SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        "`prediction_type` must not be epsilon where alpha_T = 0",
    ),
}


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "teacher"
    return write_teacher_folder(folder, tiny_unet(), DDIMScheduler(**NO_CLIP))


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_folders_are_refused_in_one_line(
    good_folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(good_folder, tmp_path / "teacher"))
    load_teacher(folder, 4)
    damage(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_teacher(folder, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["UNetSpatioTemporalConditionModel", "UNet3DConditionModel", "HunyuanDiT2DModel"]
)
def test_networks_of_unknown_families_that_are_told_more_are_refused(
    tmp_path: Path, name: str
) -> None:
    folder = write_teacher_folder(tmp_path / "teacher", tiny_unet(), DDIMScheduler(**NO_CLIP))
    edit(folder / CONFIG, _class_name=name)
    with pytest.raises(InputError, match=f"must be of a known family, .*, got {name}"):
        load_teacher(folder, 4)


def test_networks_that_read_more_than_the_state_are_refused(tmp_path: Path) -> None:
    folder = write_teacher_folder(
        tmp_path / "teacher", tiny_unet(out_channels=3), DDIMScheduler(**NO_CLIP)
    )
    with pytest.raises(InputError, match="out_channels` must be in_channels = 1, or twice that"):
        load_teacher(folder, 4)


@pytest.mark.parametrize("num_steps", [1, 7, 32, 1000])
@pytest.mark.parametrize(
    "config",
    [
        {"timestep_spacing": "trailing"},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
        },
    ],
    ids=["linear", "cosine", "latent", "zero SNR"],
)
def test_the_plan_for_a_teachers_own_folder_fits(
    tmp_path: Path, config: dict[str, Any], num_steps: int
) -> None:
    scheduler = DDIMScheduler(**NO_CLIP, **config)
    folder = write_teacher_folder(tmp_path / "teacher", tiny_mlp(), scheduler)
    check_plan_fits(load_teacher(folder, num_steps), diffusers_schedule(folder, num_steps))


def test_a_plan_for_another_teacher_does_not_fit(tmp_path: Path) -> None:
    config = {**NO_CLIP, "timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"}
    folder = write_teacher_folder(tmp_path / "teacher", tiny_mlp(), DDIMScheduler(**config))
    teacher = load_teacher(folder, 16)
    with pytest.raises(InputError, match=r"must have T = 16 steps, as the teacher, got 32"):
        check_plan_fits(teacher, diffusers_schedule(folder, 32))
    with pytest.raises(InputError, match="must have the timesteps of the teacher"):
        check_plan_fits(teacher, diffusers_schedule({**config, "timestep_spacing": "leading"}, 16))
    # The plain cosine differs from that of Nichol & Dhariwal by at most 0.0126 rad in angle.
    with pytest.raises(InputError, match=r"teacher's schedule \(alpha_\d+ = .* make the plan with"):
        check_plan_fits(teacher, cosine_schedule(16))


def test_plans_that_differ_by_one_training_timestep_do_not_fit(tmp_path: Path) -> None:
    # 1000 steps of a trailing schedule, and the same betas begun one timestep later.
    folder = write_teacher_folder(tmp_path / "teacher", tiny_mlp(), DDIMScheduler(**NO_CLIP))
    teacher = load_teacher(folder, 10)
    own = diffusers_schedule(folder, 10)
    moved = diffusers_schedule({"steps_offset": 1, **NO_CLIP}, 10)
    for step in range(1, 11):
        alphas, sigmas = own.alphas.copy(), own.sigmas.copy()
        alphas[step], sigmas[step] = moved.alphas[step], moved.sigmas[step]
        other = type(own)(alphas, sigmas)
        with pytest.raises(InputError, match=rf"(alpha|sigma)_{step} = "):
            check_plan_fits(teacher, other)
    check_plan_fits(teacher, type(own)(np.array(own.alphas), np.array(own.sigmas)))


def test_a_pipeline_of_ours_loads_through_diffusers(tmp_path: Path) -> None:
    network = tiny_mlp()
    DDPMPipeline(network, DDIMScheduler(**NO_CLIP)).save_pretrained(tmp_path)
    loaded = DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(loaded.unet, MLPDenoiser)
    teacher = load_teacher(tmp_path, 2)
    for key, weight in network.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[key], weight)
        assert torch.equal(teacher.network.state_dict()[key], weight)
