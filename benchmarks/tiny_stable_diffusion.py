"""``python -m benchmarks.tiny_stable_diffusion FOLDER``: a small Stable Diffusion, trained.

Writes ``FOLDER/images``, the built-in digits as pictures of 16 pixels a side with captions in
metadata.jsonl, and ``FOLDER/teacher``, a pipeline of diffusers' and transformers' own classes that
was trained on them: autoencoder, tokenizer of a few words, text encoder and UNet. It takes about
four minutes of one core.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from opmerge import open_source
from opmerge.data import digits_labels
from opmerge.denoisers.autoencoders import encode_images

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = ("a {}", "the digit {}", "a {} written by hand")
SIDE, WIDTH, MOST_TOKENS = 16, 32, 8
AUTOENCODER_ITERATIONS, ITERATIONS, BATCH, LABEL_DROPOUT = 400, 2200, 64, 0.1


def main(folder: Path) -> None:
    """Write the images and train the pipeline, a part after another."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    captions = write_images(folder / "images")
    images = torch.from_numpy(digit_images()).unsqueeze(1).repeat(1, 3, 1, 1)
    vae = trained_autoencoder(images)
    trained_pipeline(vae, images, captions).save_pretrained(folder / "teacher")
    print(f"written: {folder / 'images'} and {folder / 'teacher'}", flush=True)


def digit_images() -> np.ndarray[Any, np.dtype[np.float32]]:
    """(1797, SIDE, SIDE) the built-in digits in [-1, 1], resized."""
    digits = np.concatenate(list(open_source("digits").batches())).reshape(-1, 8, 8)
    resized = (Image.fromarray(each.astype(np.float32)).resize((SIDE, SIDE)) for each in digits)
    return np.stack([np.asarray(each) for each in resized]).clip(-1, 1)


def write_images(folder: Path) -> list[str]:
    """The digits as PNGs, and the captions of metadata.jsonl, in three wordings."""
    folder.mkdir(parents=True, exist_ok=True)
    wordings = itertools.cycle(CAPTIONS)
    captions = [next(wordings).format(DIGITS[label]) for label in digits_labels()]
    rows = []
    for number, (pixels, caption) in enumerate(zip(digit_images(), captions, strict=True)):
        levels = ((pixels / 2 + 0.5) * 255).round().astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{number:04d}.png")
        rows.append(json.dumps({"file_name": f"{number:04d}.png", "text": caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return captions


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a token for each word of the captions."""
    merges, names = [], ["<|startoftext|>", "<|endoftext|>"]
    for word in sorted({*" ".join(CAPTIONS).replace("{}", "").split(), *DIGITS}):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        names += [*word, *(f"{letter}</w>" for letter in word)]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
            names.append(parts[0])
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=MOST_TOKENS
    )


def trained_autoencoder(images: Tensor) -> AutoencoderKL:
    """An autoencoder of (N, 3, SIDE, SIDE) images, whose latents have half the side."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )

    def loss(rows: Tensor) -> Tensor:
        latents = vae.encode(images[rows]).latent_dist
        restored = vae.decode(latents.sample()).sample
        return (restored - images[rows]).square().mean() + 1e-3 * latents.kl().mean() / SIDE**2

    learn("autoencoder", [vae], loss, len(images), AUTOENCODER_ITERATIONS, 2e-3)
    vae.requires_grad_(False).eval()
    latents = torch.cat([encode_images(vae, part) for part in images.split(256)])
    vae.register_to_config(scaling_factor=float(vae.config.scaling_factor / latents.std()))
    return vae


def small_unet() -> UNet2DConditionModel:
    """For latents of half the images' side, told states of ``WIDTH`` features."""
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
    )


def trained_pipeline(
    vae: AutoencoderKL, images: Tensor, captions: list[str]
) -> StableDiffusionPipeline:
    """A text encoder and a UNet that learn the noise of latents together; captions drop out."""
    words = tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            projection_dim=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MOST_TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    unet = small_unet()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    latents = torch.cat([encode_images(vae, part) for part in images.split(256)])
    distinct = ["", *dict.fromkeys(captions)]
    caption_of = torch.tensor([distinct.index(caption) for caption in captions])
    given = {"padding": "max_length", "return_tensors": "pt"}
    tokens = words(distinct, max_length=MOST_TOKENS, **given).input_ids

    def loss(rows: Tensor) -> Tensor:
        noise = torch.randn_like(latents[rows])
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(rows),))
        kept = torch.rand(len(rows)) >= LABEL_DROPOUT
        states = text_encoder(tokens)[0][caption_of[rows] * kept]
        said = unet(scheduler.add_noise(latents[rows], noise, times), times, states).sample
        return (said - noise).square().mean()

    learn("denoiser", [text_encoder, unet], loss, len(images), ITERATIONS, 2e-3)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def learn(
    name: str,
    networks: list[nn.Module],
    loss: Callable[[Tensor], Tensor],
    count: int,
    iterations: int,
    rate: float,
) -> None:
    """Train networks on batches of ``count`` samples, and leave the average of their weights."""
    weights = list(itertools.chain(*(network.parameters() for network in networks)))
    optimizer = torch.optim.AdamW(weights, rate, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    average = EMAModel(weights, decay=0.995)
    begun, seen = time.process_time(), 0.0
    for iteration, rows in enumerate(batches(count, iterations), start=1):
        value = loss(rows)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay.step()
        average.step(weights)
        seen += (float(value.detach()) - seen) / min(iteration, 100)
        if iteration % 200 == 0:
            took = time.process_time() - begun
            print(f"{name}: {iteration} of {iterations}, loss {seen:.4f}, {took:.0f} s", flush=True)
    average.copy_to(weights)


def batches(count: int, iterations: int) -> Iterator[Tensor]:
    """(BATCH,) row numbers, drawn anew for every iteration."""
    return (torch.randint(0, count, (BATCH,)) for _ in range(iterations))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
