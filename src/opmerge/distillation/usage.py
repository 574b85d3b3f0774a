"""How diffusers loads a student, and how its teacher's pipeline is called: code of its card."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.models import Student
from opmerge.denoisers.pipelines import PipelineParts
from opmerge.distillation.model_card import Usage
from opmerge.distillation.plain_steps import PlainSteps

_JUMPS = "import opmerge.distillation  # the scheduler of the steps\n"
_SWITCH = """
def switch(pipeline, step, timestep, values):
    pipeline.set_adapters(adapters[min(step + 1, len(adapters) - 1)])
    return values

"""


def pipeline_usage(parts: PipelineParts, student: Student, plain: PlainSteps | None) -> Usage:
    """Of a student that is a pipeline by itself."""
    code = f"""{_JUMPS if plain is None else ""}from diffusers import {parts.class_name}

pipeline = {parts.class_name}.from_pretrained(FOLDER{_variant(parts)})
images = pipeline({_call(student, plain)}).images"""
    return Usage(code, _guidance(student)[1])


def adapters_usage(
    parts: PipelineParts, student: Student, plain: PlainSteps | None, adapters: Sequence[str]
) -> Usage:
    """Of a student whose adapters its teacher's pipeline loads: the name of one for each step."""
    name = parts.class_name
    if plain is None:
        scheduler, place = "JumpScheduler", "jumps"
        needed = f"from diffusers import {name}\n"
        needed += "from opmerge.distillation.scheduler import JumpScheduler"
    else:
        scheduler, place = type(plain.scheduler).__name__, "scheduler"
        needed = f"from diffusers import {', '.join(sorted([name, scheduler]))}"
    loaded = f'pipeline.load_lora_weights(FOLDER, subfolder="{adapters[0]}")\n'
    asked = _call(student, plain)
    if len(set(adapters)) > 1:
        listed = ", ".join(f'"{each}"' for each in adapters)
        loaded = f"adapters = [{listed}]  # of each step\nfor name in set(adapters):\n"
        loaded += "    pipeline.load_lora_weights(FOLDER, subfolder=name, adapter_name=name)\n"
        loaded += f"pipeline.set_adapters(adapters[0])\n\n{_SWITCH}"
        asked += ", callback_on_step_end=switch"
    code = f"""{needed}

pipeline = {name}.from_pretrained(TEACHER{_variant(parts)})
pipeline.scheduler = {scheduler}.from_pretrained(FOLDER, subfolder="{place}")
{loaded}images = pipeline({asked}).images"""
    note = f"TEACHER is its teacher's folder. {_guidance(student)[1]}"
    return Usage(code, note, is_adapter=True)


def _variant(parts: PipelineParts) -> str:
    return f', variant="{parts.variant}"' if parts.variant else ""


def _call(student: Student, plain: PlainSteps | None) -> str:
    """The arguments of the pipeline's call."""
    told = "PROMPT, " if student.num_classes is None else "class_labels=[0], "
    asked = f"num_inference_steps={len(student.jumps)}"
    if plain is not None:
        values = [round(value, 6) for value in plain.values]
        asked = f"{asked}, {plain.argument}={values}"
    return f"{told if student.needs else ''}{asked}{_guidance(student)[0]}"


def _guidance(student: Student) -> tuple[str, str]:
    """The guidance scale in the arguments of the call, and what there is to say of it."""
    scale, config = student.guidance.get("scale"), config_of(student.jumps[0].network)
    if isinstance(scale, list):
        low, high = scale
        told = f"It was trained to be told a guidance scale from {low:g} to {high:g}."
        return f", guidance_scale={(low + high) / 2}", told
    if family_of(config).guidance_rows(config, torch.ones(1)):
        told = "It is told the guidance scale that its pipeline has by default, as in training."
        return "", told
    told = "Guidance, if its teacher had any, is part of what it has learned: it is sampled "
    return ", guidance_scale=1.0", f"{told}without (`guidance_scale=1.0`)."
