"""Adapters on a frozen teacher: what they are, what they cost, and how they train."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from opmerge import build_strategy, cosine_schedule
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.adapters import (
    Adapters,
    diffusers_weights,
    fused,
    fused_student,
    is_adapted,
    load_diffusers_weights,
    trainable_copy,
)
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.timing import Pace
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T = 8
DATA = torch.linspace(-2, 2, 64).reshape(16, 4).sin()
RANK = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perceptron() -> MLPDenoiser:
    torch.manual_seed(0)
    network = MLPDenoiser((4,), hidden_size=16, num_layers=1)
    nn.init.normal_(network.proj_out.weight, std=0.3)
    return network


def shaken(network: nn.Module) -> nn.Module:
    """The same network with adapters that change something."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".lora_" in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator(1)))
    return network


NETWORKS: list[tuple[Any, tuple[Tensor, ...]]] = [
    (perceptron, (torch.randn(5, 4), torch.tensor(3))),
    (lambda: make_unet((1, 8, 8), (32, 32)), (torch.randn(2, 1, 8, 8), torch.tensor(3))),
]


@pytest.mark.parametrize(("make", "inputs"), NETWORKS)
@pytest.mark.parametrize("modules", [None, ("proj_in", "conv1", "to_q")])
def test_an_adapted_network_is_the_fused_one(
    make: Any, inputs: tuple[Tensor, ...], modules: tuple[str, ...] | None
) -> None:
    """At first the very network, and then W + B A at every layer: computed by hand."""
    base = make().requires_grad_(False).eval()
    before = copy.deepcopy(base.state_dict())
    adapted = trainable_copy(base, Adapters(RANK, modules), generator())
    assert torch.equal(adapted(*inputs).sample, base(*inputs).sample)
    shaken(adapted)
    plain = fused(adapted, base)
    assert not is_adapted(plain)
    torch.testing.assert_close(plain(*inputs).sample, adapted(*inputs).sample)
    assert (plain(*inputs).sample - base(*inputs).sample).abs().max() > 0.01
    state, changed = adapted.state_dict(), 0
    for name, weight in plain.state_dict().items():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.default.weight" in state:
            down, up = (state[f"{module}.lora_{which}.default.weight"] for which in "AB")
            by_hand = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1))
            torch.testing.assert_close(weight, before[name] + by_hand.view_as(weight))
            changed += 1
        else:
            assert torch.equal(weight, before[name])
    kinds = (nn.Linear, nn.Conv2d)
    names = [name for name, module in base.named_modules() if isinstance(module, kinds)]
    ends = tuple(f".{module}" for module in modules or ())
    wanted = [name for name in names if not ends or f".{name}".endswith(ends)]
    assert changed == len(wanted) > 0
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_other_weights_are_the_teachers_own() -> None:
    """Not one of them is copied, trained or saved; adapters are each network's own."""
    base = perceptron().requires_grad_(False)
    first = shaken(trainable_copy(base, Adapters(RANK), generator()))
    second = trainable_copy(first, Adapters(RANK), generator(2))
    own = {weight.data_ptr() for weight in base.parameters()}
    seen: set[int] = set()
    for network in (first, second):
        weights = dict(network.named_parameters())
        adapters = {name for name in weights if ".lora_" in name}
        assert adapters == network.state_dict().keys()
        assert adapters == {name for name, weight in weights.items() if weight.requires_grad}
        assert {weights[name].data_ptr() for name in weights.keys() - adapters} == own
        places = {weights[name].data_ptr() for name in adapters}
        assert not places & (own | seen)
        seen |= places
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])  # a copy, and nothing new in it
    assert not any(weight.requires_grad for weight in base.parameters())


def test_new_adapters_are_those_of_the_generator_and_as_peft_draws_them() -> None:
    base = perceptron().requires_grad_(False)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (
        trainable_copy(base, Adapters(64), generator(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    name = "blocks.0.proj_in.lora_A.default.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    pefts = copy.deepcopy(base)
    inject_adapter_in_model(LoraConfig(r=64, target_modules=["blocks.0.proj_in"]), pefts)
    usual = pefts.state_dict()[name]
    assert usual.shape == one[name].shape
    assert float(one[name].std()) == pytest.approx(float(usual.std()), rel=0.1)  # of 1,024 numbers
    assert float(one[name].abs().max()) == pytest.approx(float(usual.abs().max()), rel=0.02)


def test_weights_go_to_diffusers_and_back() -> None:
    """A UNet of diffusers, with its own loader of adapters, gives the same output."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    base.requires_grad_(False).eval()
    adapted = shaken(trainable_copy(base, Adapters(RANK), generator()))
    assert not any("conv" in name for name in adapted.state_dict())  # linear layers alone
    told = torch.randn(2, 4, 8, 8), torch.tensor(7), torch.randn(2, 5, 12)
    weights = diffusers_weights(adapted, "unet")
    plain = copy.deepcopy(base)
    plain.load_lora_adapter(weights, prefix="unet")
    torch.testing.assert_close(plain(*told).sample, adapted(*told).sample)
    assert (plain(*told).sample - base(*told).sample).abs().max() > 1e-3
    again = trainable_copy(base, Adapters(RANK), generator(7))
    load_diffusers_weights(again, "unet", weights)
    assert torch.equal(again(*told).sample, adapted(*told).sample)
    other = trainable_copy(base, Adapters(RANK + 1), generator())
    with pytest.raises(InputError, match="must hold LoRA weights of this teacher's network"):
        load_diffusers_weights(other, "unet", weights)


def distillation(folder: Path | None = None, strategy: str = "boot", **changes: Any) -> Any:
    settings: dict[str, Any] = {"train_batch_size": 8, "learning_rate": 1e-2, "ema_decay": 0.5}
    given: dict[str, Any] = {"num_iterations": 4, "lora_rank": RANK}
    for key, value in changes.items():
        (given if key in DistillationConfig.model_fields else settings)[key] = value
    config = DistillationConfig(**given, optimization=OptimizationConfig(**settings))
    teacher = Teacher(perceptron(), DDIM.from_schedule(cosine_schedule(T), "v_prediction"), (4,))
    accelerator = make_accelerator(config.optimization, cpu=True)
    plan = build_strategy(strategy, T)
    return Distillation(teacher, plan, DataInputs(DATA), config, accelerator, folder)


def adapters_of(run: Distillation) -> list[Tensor]:
    return [w for jump in run.student().jumps for w in jump.network.state_dict().values()]


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [("boot", {}), ("progressive", {"sharing": "round"}), ("boot", {"linear_part": "train"})],
)
def test_every_checkpoint_leads_to_the_same_end(
    tmp_path: Path, strategy: str, changes: dict[str, Any]
) -> None:
    given = {**changes, "strategy": strategy, "checkpointing_steps": 1}
    given["checkpoints_total_limit"] = 99
    run = distillation(tmp_path, **given)
    before = copy.deepcopy(run.teacher.network.state_dict())
    steps = [record.step for record in run.run()]
    whole = adapters_of(run)
    assert whole
    assert all(float(weight.detach().abs().sum()) > 0 for weight in whole)  # B has left 0
    for name, weight in run.teacher.network.state_dict().items():
        assert torch.equal(weight, before[name])
    for step in steps[:: max(1, len(steps) // 4)] + steps[-1:]:
        again = distillation(tmp_path, **given)
        assert again.resume(f"checkpoint-{step}") == step
        assert [record.step for record in again.run()] == steps[step:]
        for one, other in zip(adapters_of(again), whole, strict=True):
            assert torch.equal(one, other)
    sizes = [path.stat().st_size for path in tmp_path.glob("checkpoint-*/model.safetensors")]
    network = sum(weight.nbytes for weight in before.values())
    assert max(sizes) < network / 2  # of the adapters of rank 3 alone


def test_a_run_of_full_rank_learns_what_whole_networks_learn() -> None:
    """The loss falls as far: with r = 16 adapters of 16 x 16 layers can be any change of them."""
    losses = []
    for rank in (None, 16):
        run = distillation(
            strategy="vanilla", lora_rank=rank, num_iterations=200, linear_part="train"
        )
        found = [float(record.loss) for record in run.run()]
        losses.append(sum(found[-20:]) / sum(found[:1]))
    whole, adapted = losses
    assert adapted < 2 * whole
    assert adapted < 10


def test_a_fused_student_gives_the_same_samples() -> None:
    run = distillation()
    for _ in run.run():
        pass
    student = run.student()
    plain = fused_student(student, run.teacher.network)
    noise = torch.randn(6, 4)
    torch.testing.assert_close(plain.sample(noise), student.sample(noise))
    assert not any(is_adapted(jump.network) for jump in plain.jumps)


def test_a_cost_counts_adapters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """r (inputs + outputs) numbers a layer, six times: in place (2), trained, two moments, EMA."""
    run = distillation(strategy="progressive", optimizer="adam", checkpoints_total_limit=1)
    monkeypatch.setattr(run, "pace", lambda report: Pace(0.0, 0.0, 1.0))
    cost = estimate_cost(run)
    layers = [m for m in run.teacher.network.modules() if isinstance(m, nn.Linear)]
    trained = RANK * sum(layer.in_features + layer.out_features for layer in layers)
    assert cost.num_trained == trained
    in_place = max(stage.networks_after for stage in run.stages[:-1])
    targets = max(
        run.targets.kept(n, s.reuse(run.config))[1]
        for n, s in zip(run.iterations, run.stages, strict=True)
    )
    assert cost.memory_bytes == 4 * (cost.num_parameters + (in_place + 4) * trained) + targets
    assert cost.disk_bytes == 4 * trained * (2 * (in_place + 4) + 1)


def test_modules_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="`lora_target_modules` must name linear layers"):
        distillation(lora_target_modules=("to_q",))
    with pytest.raises(InputError, match="`lora_target_modules` must come with lora_rank"):
        DistillationConfig(lora_target_modules=("to_q",))


def test_two_of_a_kind_share_no_random_numbers() -> None:
    """Adapters of different stages start from different numbers, by the seed and the stage."""
    run = distillation(strategy="progressive", sharing="merge")
    first = run.new_student().state_dict()
    list(itertools.islice(run.run(), 5))
    second = run.new_student().state_dict()
    name = "blocks.0.proj_in.lora_A.default.weight"
    assert not torch.equal(first[name], second[name])
