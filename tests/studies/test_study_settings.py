"""Settings of a study from KEY=VALUE, checked against the types of its configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from opmerge.errors import InputError
from opmerge_studies.shared.settings import configure, settings_named
from opmerge_studies.shared.study import STUDIES


@dataclass(frozen=True)
class Part:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Whole:
    steps: int = 4
    names: tuple[str, ...] = ("x",)
    title: str | None = None
    exact: bool = False
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError("steps", "must be >= 1", self.steps)


def test_settings_are_replaced_at_any_depth() -> None:
    settings = ["steps=8", 'names=["y","z"]', "title=on 8 steps", "exact=true", "part.rate=2"]
    expected = Whole(8, ("y", "z"), "on 8 steps", True, Part(2.0))
    assert configure(Whole(), settings) == expected
    assert configure(Whole(), []) == Whole()
    assert configure(Whole(title="t"), ["title=null"]) == Whole()
    assert configure(Whole(), ["steps=8", "steps=9"]) == Whole(9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "`set` must have the form KEY=VALUE, got steps"),
        ("step=8", "`set` must name one of steps, names, title, exact, part, got step"),
        ("part.speed=8", "`set` must name one of rate, kind, got speed"),
        ("part=8", "`set` must name a setting inside, got part; such as part.NAME"),
        ("steps.more=8", "`set` must not name a part of steps, got steps.more"),
        ("steps=many", '`steps` must be a valid integer, got "many"'),
        ("steps=1.5", "`steps` must be a valid integer, got 1.5"),
        ("steps=true", "`steps` must be a valid integer, got true"),
        ("steps=0", "`steps` must be >= 1, got 0"),
        ("names=boot", '`names` must be a valid array, got "boot"'),
        ("names=[1]", "`names.0` must be a valid string, got 1"),
        ("exact=1", "`exact` must be a valid boolean, got 1"),
        ("part.rate=fast", '`part.rate` must be a valid number, got "fast"'),
        ("part.kind=c", "`part.kind` must be 'a' or 'b', got \"c\""),
    ],
)
def test_what_does_not_suit_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        configure(Whole(), [setting])
    assert str(caught.value) == message


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("quick", [False, True])
def test_the_settings_of_every_study_can_be_told_and_read_again(name: str, quick: bool) -> None:
    if STUDIES[name].trains_networks:
        pytest.importorskip("torch")
    config: Any = STUDIES[name].config(quick)
    first = next(iter(vars(config)))
    assert configure(config, [f"{first}={json.dumps(vars(config)[first])}"]) == config


@pytest.mark.parametrize(
    ("remedy", "told"),
    [
        ("by --split all", "by --set source_options.split=all"),
        (
            "with --image_size 8 --grey",
            "with --set source_options.image_size=8 --set source_options.grey=true",
        ),
        ("another --patch_size", "another --set source_options.patch_size"),
    ],
)
def test_options_are_named_as_settings(remedy: str, told: str) -> None:
    with pytest.raises(InputError) as found, settings_named():
        raise InputError("images", "must fit", 1, remedy)
    assert str(found.value) == f"`images` must fit, got 1; {told}"
