"""From pictures and captions to a measured student of a text teacher, by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned_images import CAPTIONS, NUM_IMAGES, captioned_images, prepare_words, refused
from diffusers import DDIMPipeline, DDIMScheduler
from PIL import Image
from tiny_pipelines import SAMPLE, TINY_PIPELINES

from opmerge.cli import main
from opmerge.data.prepared import open_prepared
from opmerge.denoisers.conditions import kept_conditions, null_condition
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.networks import make_unet
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation.pipeline import load_student
from opmerge.settings.guidance import GuidanceOptions

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

STEPS = 4
SHAPE = (4, SAMPLE, SAMPLE)
SHORT = ("--num_iterations", 3, "--train_batch_size", 4, "--checkpointing_steps", 0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text teacher, pictures, prompts, what is prepared of them, and a student."""
    folder = tmp_path_factory.mktemp("work")
    teacher, images, cache = folder / "teacher", folder / "images", folder / "cache"
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(teacher)
    images.mkdir()
    captioned_images(images)
    (folder / "p.txt").write_text("a cat\na dog\n")

    def call(*words: object) -> None:
        assert main([str(word) for word in words]) == 0

    call(*prepare_words(teacher, cache, images))
    call(*prepare_words(teacher, folder / "prompts", "--prompts", folder / "p.txt"))
    planned = ("--schedule", teacher, "--steps", STEPS, "--training", "gradient-flow")
    call("plan", cache, *planned, "--output_dir", folder / "plan")
    plan = folder / "plan" / "plan.json"
    call(*distill(folder, "cache", "--plan", plan, "--output_dir", folder / "run"))
    return folder


def distill(work: Path, data: str, *more: object) -> list[object]:
    return ["distill", work / data, "--teacher", work / "teacher", *SHORT, *more]


def drawn(run: Run, work: Path, model: str, *more: object) -> torch.Tensor:
    output = work / "drawn.npy"
    steps = ("--steps", STEPS) if model == "teacher" else ()
    words = ("sample", work / model, "--output", output, *steps, "--seed", 3, *more)
    status, _, err = run(*words)
    assert status == 0, err
    return torch.from_numpy(np.load(output))


def test_samples_are_told_the_prompts_of_a_data_set_in_turn(run: Run, work: Path) -> None:
    teacher = load_teacher(work / "teacher", STEPS)
    told = kept_conditions(open_prepared(work / "cache"))
    assert told is not None
    count = NUM_IMAGES + 2
    expected = teacher.sample(
        initial_noise(SHAPE, count, 3), told[torch.arange(count) % NUM_IMAGES]
    )
    in_turn = ("--prompts", work / "cache", "--num_samples", count)
    found = drawn(run, work, "teacher", *in_turn)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    words = [word for caption in CAPTIONS for word in ("--prompt", caption)]
    (work / "captions.txt").write_text("\n".join(CAPTIONS))
    for asked in (words, ["--prompts", work / "captions.txt"]):
        alike = drawn(run, work, "teacher", *asked, "--num_samples", count)
        torch.testing.assert_close(found, alike, atol=1e-5, rtol=1e-4)
    other = drawn(run, work, "teacher", "--prompt", "a horse", "--num_samples", count)
    assert float((other - alike).abs().min(0).values.max()) > 1e-3


def test_a_student_is_measured_on_the_prompts_of_its_data(run: Run, work: Path) -> None:
    student = load_student(work / "run" / "student")
    teacher = load_teacher(work / "teacher", STEPS)
    words = ("evaluate-student", work / "run" / "student", "--teacher", work / "teacher")
    few = ("--num_samples", 8, "--num_resamples", 0, "--seed", 5, "--json")
    for prompts, option in (
        ("cache", "--source"),
        ("cache", "--prompts"),
        ("prompts", "--prompts"),
        ("p.txt", "--prompts"),  # of which "prompts" was prepared
    ):
        status, out, err = run(*words, option, work / prompts, *few)
        assert status == 0, err
        told = kept_conditions(open_prepared(work / prompts.replace("p.txt", "prompts")))
        assert told is not None
        noise, condition = initial_noise(SHAPE, 8, 5), told[torch.arange(8) % len(told)]
        difference = student.sample(noise, condition) - teacher.sample(noise, condition)
        error = float((difference**2).flatten(1).sum(1).mean())
        assert json.loads(out)["paired_error"]["value"] == pytest.approx(error, rel=1e-3)
    refused(run(*words, *few), "prompts", "must be given", "encoder_hidden_states")
    refused(run(*words, *few, "--prompts", work), "prompts", "opmerge prepare")


def test_a_guided_teacher_is_guided_away_from_the_row_that_was_prepared(
    run: Run, work: Path
) -> None:
    boot = ("--plan", "boot", "--steps", STEPS, "--output_dir", work / "guided")
    assert run(*distill(work, "cache", *boot, "--guidance_scale", 2.5))[0] == 0
    student = work / "guided" / "student"
    few = ("--num_samples", 6, "--num_resamples", 0, "--seed", 5, "--json")
    words = ("--teacher", work / "teacher", "--prompts", work / "cache")
    status, out, err = run("evaluate-student", student, *words, *few)
    assert status == 0, err
    found = open_prepared(work / "cache")
    told, null = kept_conditions(found), null_condition(found)
    assert told is not None
    teacher = load_teacher(work / "teacher", STEPS)
    guided = teacher.guided(GuidanceOptions(guidance_scale="2.5"), null)
    noise, condition = initial_noise(SHAPE, 6, 5), told[:6]
    difference = load_student(student).sample(noise, condition) - guided.sample(noise, condition)
    error = float((difference**2).flatten(1).sum(1).mean())
    assert json.loads(out)["paired_error"]["value"] == pytest.approx(error, rel=1e-3)
    unguided = teacher.sample(noise, condition) - guided.sample(noise, condition)
    assert float(unguided.square().mean()) > 0  # which a student of the plain one would be near


def test_latents_are_decoded_to_a_picture_by_the_teachers_pipeline(run: Run, work: Path) -> None:
    from diffusers import AutoencoderKL

    student, told = work / "run" / "student", ("--prompt", "number 1")
    four = (*told, "--num_samples", 4, "--seed", 3)
    latents = drawn(run, work, "run/student", *four)
    assert run("sample", student, "--output", work / "s.png", *four)[0] == 0
    vae = AutoencoderKL.from_pretrained(work / "teacher" / "vae")
    with torch.no_grad():
        images = vae.decode(latents / vae.config.scaling_factor).sample
    rows = torch.cat([torch.cat([*images[:2]], 2), torch.cat([*images[2:]], 2)], 1)
    levels = ((rows.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).numpy()
    with Image.open(work / "s.png") as picture:
        assert np.abs(np.asarray(picture) - levels).max() <= 1  # rounding
    both = (*told, "--prompts", work / "prompts", "--output", work / "s.npy")
    refused(run("sample", student, *both), "prompt", "together with --prompts")


def test_a_student_of_adapters_is_sampled_in_the_pipeline_of_its_teacher(
    run: Run, work: Path
) -> None:
    boot = ("--plan", "boot", "--steps", STEPS, "--output_dir", work / "lora", "--lora_rank", 2)
    assert run(*distill(work, "cache", *boot))[0] == 0
    student, four = work / "lora" / "student", ("--prompt", "number 1", "--num_samples", 4)
    assert run("sample", student, "--output", work / "l.png", *four)[0] == 0
    with Image.open(work / "l.png") as picture:
        assert picture.size == (4 * SAMPLE, 4 * SAMPLE)


def test_another_teacher_than_data_were_prepared_for_is_told_of(run: Run, work: Path) -> None:
    (work / "alike").symlink_to(work / "teacher")
    shutil.copytree(work / "teacher", work / "other teacher")
    boot = ("--plan", "boot", "--steps", STEPS, "--dry_run", "--output_dir", work / "dry")
    for name, is_told in (("alike", False), ("other teacher", True)):
        words = ["distill", work / "cache", "--teacher", work / name, *SHORT, *boot]
        status, _, err = run(*words)
        assert status == 0, err
        assert ("was prepared by the pipeline in teacher" in err) is is_told


def test_a_run_without_data_reads_prompts_alone(run: Run, work: Path) -> None:
    boot = ("--plan", "boot", "--steps", STEPS, "--output_dir", work / "free", "--data_free")
    assert run(*distill(work, "prompts", *boot))[0] == 0
    assert load_student(work / "free" / "student").needs.keys() == {"encoder_hidden_states"}
    refused(run(*distill(work, "prompts", *boot[:-1])), "must hold samples", "--data_free")
    refused(run(*distill(work, "images", *boot)), "source", "with --data_free")
    words = ["distill", "none", *distill(work, "images", *boot)[2:]]
    refused(run(*words), "source", "encoder_hidden_states", "got nothing")


def test_data_that_tell_what_a_teacher_does_not_read_are_refused(run: Run, work: Path) -> None:
    boot = ("--plan", "boot", "--steps", STEPS, "--output_dir", work / "other")
    refused(run(*distill(work, "images", *boot)), "source", "encoder_hidden_states", "prepare")
    labels = ("--labels", "digits")
    refused(run(*distill(work, "cache", *boot, *labels)), "labels", "must be left out")
    wide = work / "wide"
    TINY_PIPELINES["sdxl"]().save_pretrained(wide)
    words = ["distill", work / "cache", "--teacher", wide, *SHORT, *boot]
    refused(run(*words), "source", "text_embeds", "this teacher")
    refused(run("train-teacher", work / "cache", "--output_dir", work / "other"), "no text")
    assert not (work / "other").exists()


def test_classes_come_from_the_data_set_that_was_prepared(run: Run, work: Path) -> None:
    """A class-conditional teacher trained on digits, whose labels the data set has."""
    small = ("--hidden_size", 16, "--num_layers", 1, "--train_batch_size", 32)
    few = ("--num_iterations", 5, "--validation_steps", 5)
    labelled = work / "labelled"
    trained = ("train-teacher", "digits", "--labels", "digits", *small, *few)
    assert run(*trained, "--output_dir", work / "t0")[0] == 0
    teacher = work / "t0" / "teacher"
    words = ("prepare", "digits", "--labels", "digits", "--teacher", teacher)
    assert run(*words, "--output_dir", labelled)[0] == 0
    assert run("train-teacher", labelled, *small, *few, "--output_dir", work / "t1")[0] == 0
    both = [load_teacher(work / name / "teacher", 4) for name in ("t0", "t1")]
    assert both[0].digest == both[1].digest  # the same samples and labels
    boot = ("--teacher", teacher, "--plan", "boot", "--steps", 4, *SHORT, "--output_dir")
    assert run("distill", labelled, *boot, work / "r1")[0] == 0
    assert run("distill", "digits", "--labels", "digits", *boot, work / "r0")[0] == 0
    weights = [next((work / name / "student").rglob("*.safetensors")) for name in ("r0", "r1")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    shutil.rmtree(labelled)


def test_what_vae_encode_writes_is_what_a_network_reads(run: Run, work: Path) -> None:
    """The same latents as those of `prepare`, in the shape that `distill` takes."""
    sizes = ("--image_size", 2 * SAMPLE, "--vae", work / "teacher")
    status, out, _ = run("vae", "encode", work / "images", *sizes, "--output", work / "l.npy")
    assert status == 0
    assert f"{NUM_IMAGES} x 4 x {SAMPLE} x {SAMPLE}" in out
    found = open_prepared(work / "cache").shards["samples"].read("samples", 0, NUM_IMAGES)
    np.testing.assert_allclose(np.load(work / "l.npy"), found, rtol=1e-5, atol=1e-6)
    DDIMPipeline(make_unet(SHAPE, (8,), None), DDIMScheduler(clip_sample=False)).save_pretrained(
        work / "latent"
    )
    words = ("distill", work / "l.npy", "--teacher", work / "latent", "--plan", "boot", *SHORT)
    assert run(*words, "--steps", STEPS, "--output_dir", work / "latent_run")[0] == 0
