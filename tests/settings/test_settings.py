"""Settings: each field told once, checked when built, the same in JSON, refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opmerge import GradientFlow, Problem, cosine_schedule, eigenvalue_spectrum
from opmerge.errors import InputError
from opmerge.settings import commands, data, distillation, networks
from opmerge.settings.base import Settings, option
from opmerge.settings.commands import CalibrationOptions, ProblemOptions
from opmerge.settings.data import DataOptions, SourceOptions
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.networks import TeacherConfig, VAEConfig
from opmerge.settings.types import DEFAULT_MERGE_RULE, Ascending, Count, NonEmpty, read_budget

GROUPS: list[type[Settings]] = [
    group
    for module in (commands, data, distillation, networks)
    for group in vars(module).values()
    if isinstance(group, type)
    and issubclass(group, Settings)
    and group.__module__ == module.__name__
]
REQUIRED: dict[Any, Any] = {
    str: "x",
    Path: Path("x.npy"),
    int: 4,
    Literal["fastgen", "comfyui"]: "comfyui",
}


def built(group: type[Settings], **values: Any) -> Settings:
    """With something for each field that must be given."""
    fields = group.model_fields
    must = {
        name: "1e6" if name == "budget" else REQUIRED[field.annotation]
        for name, field in fields.items()
        if field.is_required()
    }
    return group(**{**must, **values})


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_has_a_help_and_a_default_that_validates(group: type[Settings]) -> None:
    for name, field in group.model_fields.items():
        assert field.description, name
        assert field.description[-1] in ".:", name
        if not field.is_required():
            default = field.default
            assert getattr(built(group, **{name: default}), name) == default


@pytest.mark.parametrize("group", GROUPS)
def test_settings_come_back_from_json(group: type[Settings]) -> None:
    first = built(group)
    assert first.with_json(json.loads(first.model_dump_json())) == first
    assert pickle.loads(pickle.dumps(first)) == first


def test_tuples_and_settings_inside_come_back_from_json() -> None:
    config = TeacherConfig(block_out_channels=(8, 16), optimization=OptimizationConfig(seed=3))
    assert TeacherConfig().with_json(config.model_dump(mode="json")) == config
    assert DistillationConfig().with_json({"num_iterations": [3, 4]}).num_iterations == (3, 4)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(np.int64(3))
)


@settings(max_examples=300)
@given(st.sampled_from(list(OptimizationConfig.model_fields)), SCALARS)
@example("learning_rate", 2**53)
@example("learning_rate", 2**63 - 1)
@example("weight_decay", 10**30)
def test_any_value_is_kept_as_it_is_or_refused_by_name(name: str, value: Any) -> None:
    config, refusal = None, ""
    try:
        config = OptimizationConfig(**{name: value})
    except InputError as error:
        refusal = str(error)
    if config is None:
        assert refusal.startswith(f"`{name}` must be ")
        assert "\n" not in refusal
        return
    kept = getattr(config, name)
    assert kept == (float(value) if type(kept) is float else value)
    assert type(kept) in (bool, int, float, str, type(None))
    assert config.with_json(config.model_dump(mode="json")) == config


class Example(Settings):
    """Every kind of check."""

    count: Count = option(1, "A count.")
    counts: Count | tuple[Count, ...] = option(1, "One or several.")
    names: tuple[str, ...] = option((), "Names.")
    times: tuple[float, ...] = option((1.0,), "Times.")
    exact: bool = option(False, "Whether.")


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (Example, {"count": 0}, "`count` must be >= 1, got 0"),
        (Example, {"count": 1.5}, "`count` must be a whole number, got 1.5"),
        (Example, {"count": True}, "`count` must be a whole number, got True"),
        (Example, {"count": "x"}, "`count` must be a whole number, got x"),
        (Example, {"counts": 0}, "`counts` must be >= 1, got 0"),
        (Example, {"counts": (2, 0)}, "`counts.1` must be >= 1, got 0"),
        (Example, {"counts": "x"}, "`counts` must be a whole number, got x"),
        (Example, {"names": (1,)}, "`names.0` must be a string, got 1"),
        (Example, {"exact": 1}, "`exact` must be true or false, got 1"),
        (Example, {"cuont": 1}, "`cuont` must be left out: there is no such setting"),
        (OptimizationConfig, {"learning_rate": 0}, "`learning_rate` must be > 0, got 0"),
        (
            OptimizationConfig,
            {"learning_rate": float("nan")},
            "`learning_rate` must be a finite number, got nan",
        ),
        (OptimizationConfig, {"ema_decay": 1}, "`ema_decay` must be in [0, 1), got 1.0"),
        (OptimizationConfig, {"weight_decay": -1.0}, "`weight_decay` must be >= 0, got -1.0"),
        (
            OptimizationConfig,
            {"optimizer": "lion"},
            "`optimizer` must be one of adamw, adam, sgd, got lion",
        ),
        (
            TeacherConfig,
            {"block_out_channels": (8, 33)},
            "`block_out_channels` must be multiples of 8, got (8, 33)",
        ),
        (
            DistillationConfig,
            {"optimization": {"seed": "x"}},
            "`optimization.seed` must be a whole number",
        ),
        (SourceOptions, {"split": "x"}, "`split` must be one of train, validation, test, all"),
        (DataOptions, {}, "`source` must be given"),
    ],
)
def test_what_does_not_suit_is_one_line(
    group: type[Settings], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        group(**values)
    assert str(caught.value).startswith(message)


class Ordered(Settings):
    times: Annotated[tuple[float, ...], Ascending]
    names: Annotated[tuple[str, ...], NonEmpty] = ("x",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"times": [2.0, 1.0]}, "`times` must ascend and not be empty, got (2.0, 1.0)"),
        ({"times": []}, "`times` must ascend and not be empty, got ()"),
        ({"times": [1.0], "names": ()}, "`names` must not be empty, got ()"),
    ],
)
def test_lists_are_in_an_order(values: dict[str, Any], message: str) -> None:
    assert Ordered(times=[1.0, 2.0]).times == (1.0, 2.0)
    with pytest.raises(InputError) as caught:
        Ordered(**values)
    assert str(caught.value) == message


def test_what_was_given_is_told_from_what_was_left_to_a_default() -> None:
    config = OptimizationConfig(seed=0, learning_rate=1e-3)
    assert config.given("seed", 7) == 0
    assert config.given("optimizer") is None
    other = config.replaced(seed=2)
    assert (other.seed, other.learning_rate, config.seed) == (2, 1e-3, 0)
    assert other.model_fields_set == {"seed", "learning_rate"}
    with pytest.raises(InputError, match="`seed` must be a whole number"):
        config.replaced(seed="x")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


def digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


NEWER = {"gradient_checkpointing", "use_8bit_adam", "torch_compile"}
"""Which decide nothing where they are off, and are then in the identity of no run."""


def without_newer(values: dict[str, Any]) -> dict[str, Any]:
    kept = {key: each for key, each in values["optimization"].items() if key not in NEWER}
    return {**values, "optimization": kept}


def test_runs_are_told_apart_as_they_were() -> None:
    """By what version 0.1 made of the same settings; a whole number is not made a float."""
    optimization = OptimizationConfig(
        weight_decay=0,
        max_grad_norm=2,
        ema_decay=0.5,
        train_batch_size=32,
        gradient_accumulation_steps=2,
        seed=3,
        report_to="tensorboard",
        lr_warmup_steps=0,  # the default of that version
    )
    unusual = DistillationConfig(
        num_iterations=(3, 4),
        merge_seconds=2,
        sharing="round",
        target_reuse=1,
        optimization=optimization,
    )
    teacher = TeacherConfig(
        block_out_channels=(8, 16), validation_fraction=0, optimization=optimization
    )
    usual = DistillationConfig(target_reuse=1, optimization=OptimizationConfig(lr_warmup_steps=0))
    assert digest(usual.what_decides(2)) == "c3c6882e80661fe3"
    assert digest(unusual.what_decides(2)) == "9c3dc92aec35a81d"
    assert not NEWER & OptimizationConfig().what_decides(1).keys()
    assert digest(without_newer(TeacherConfig().what_decides())) == "ab3e3d61601599c1"
    assert digest(without_newer(teacher.what_decides())) == "e0eeb3b200ddef4f"
    assert digest(without_newer(VAEConfig().model_dump())) == "b403e27b317b9aec"
    vae = VAEConfig(kl_weight=1, optimization=optimization).model_dump()
    assert digest(without_newer(vae)) == "4723d723692370a0"


def test_the_defaults_of_a_problem_are_the_options() -> None:
    problem, asked = Problem(eigenvalue_spectrum([0.5]), cosine_schedule(4)), ProblemOptions()
    assert (problem.merge_rule, problem.objective) == (asked.merge_rule, asked.objective)
    assert GradientFlow().time == asked.merge_time


def test_one_merge_rule_is_the_default_of_plans_and_of_what_executes_them() -> None:
    """What copying a network's weights does; no group of settings has a default of its own."""
    assert DEFAULT_MERGE_RULE == "denoiser-copy"
    assert Problem(eigenvalue_spectrum([0.5]), cosine_schedule(4)).merge_rule == DEFAULT_MERGE_RULE
    groups = [group for group in GROUPS if "merge_rule" in group.model_fields]
    assert {ProblemOptions, DistillationConfig, CalibrationOptions} <= set(groups)
    for group in groups:
        assert group.model_fields["merge_rule"].default is DEFAULT_MERGE_RULE


def test_settings_are_read_without_numpy_and_torch() -> None:
    modules = "commands, data, distillation, networks"
    code = f"import sys; from opmerge.settings import {modules}; "
    code += "sys.exit(any(name in sys.modules for name in ('numpy', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_come_back_from_other_processes_and_say_arguments_in_other_words() -> None:
    error = InputError("n", "must be >= 1", 0, "pass `n=2` or leave out `m`")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.argument) == (str(error), "n")
    words = {"n": "--n", "m": None}
    told = error.in_words(lambda name, value: words[name] and f"{words[name]} {value}")
    assert str(told) == "`n` must be >= 1, got 0; pass --n 2 or leave out `m`"


@pytest.mark.parametrize("number", [5e5, 500_000, np.float64(5e5)])
def test_a_budget_may_be_a_number(number: float) -> None:
    assert read_budget(DistillationConfig(budget=number).budget or "") == (5e5, "evaluations")
    with pytest.raises(InputError, match="budget"):
        DistillationConfig(budget=-number)


@pytest.mark.parametrize(
    ("given", "shape", "network"),
    [
        ({}, (3, 32, 32), "unet"),
        ({}, (1, 16, 16), "unet"),
        ({}, (4, 64, 64), "unet"),
        ({}, (1, 8, 8), "mlp"),  # digits
        ({}, (1, 25, 25), "mlp"),  # whose side cannot be halved
        ({}, (3, 16, 32), "mlp"),
        ({}, (3, 128, 128), "mlp"),
        ({}, (512,), "mlp"),
        ({"hidden_size": 64}, (3, 32, 32), "mlp"),
        ({"label_dropout": 0.1}, (3, 32, 32), "unet"),
        ({"token_side": 2}, (3, 32, 32), "dit"),
        ({"block_out_channels": (8, 16)}, (1, 8, 8), "unet"),
        ({"network": "mlp"}, (3, 32, 32), "mlp"),
        ({"network": "unet"}, (1, 8, 8), "unet"),
    ],
    ids=str,
)
def test_the_network_of_a_teacher_is_that_of_its_samples(
    given: dict[str, Any], shape: tuple[int, ...], network: str
) -> None:
    config = TeacherConfig(**given).for_samples(shape)
    assert config.network == network
    assert config.for_samples((1,)) == config  # decided
