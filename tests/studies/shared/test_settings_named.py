"""Settings of a study from KEY=VALUE, checked by their type."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

import pytest

from opmerge.errors import InputError
from opmerge.settings.base import Settings
from opmerge.settings.types import Count
from opmerge_studies.shared import Study
from opmerge_studies.shared.settings import configure, settings_named


class Part(Settings):
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


class Whole(Settings):
    steps: Count = 4
    names: tuple[str, ...] = ("x",)
    title: str | None = None
    exact: bool = False
    part: Part = Part()


def test_settings_are_replaced_at_any_depth() -> None:
    settings = ["steps=8", 'names=["y","z"]', "title=on 8 steps", "exact=true", "part.rate=2"]
    part = Part(rate=2.0)
    expected = Whole(steps=8, names=("y", "z"), title="on 8 steps", exact=True, part=part)
    assert configure(Whole(), settings) == expected
    assert configure(Whole(), []) == Whole()
    assert configure(Whole(title="t"), ["title=null"]) == Whole()
    assert configure(Whole(), ["steps=8", "steps=9"]) == Whole(steps=9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "`set` must have the form KEY=VALUE, got steps"),
        ("step=8", "`set` must name one of steps, names, title, exact, part, got step"),
        ("part.speed=8", "`set` must name one of rate, kind, got speed"),
        ("part=8", "`set` must name a setting inside, got part; such as part.NAME"),
        ("steps.more=8", "`set` must not name a part of steps, got steps.more"),
        ("steps=many", "`steps` must be a whole number, got many"),
        ("steps=1.5", "`steps` must be a whole number, got 1.5"),
        ("steps=true", "`steps` must be a whole number, got True"),
        ("steps=0", "`steps` must be >= 1, got 0"),
        ("names=boot", "`names` must be a valid tuple, got boot"),
        ("names=[1]", "`names.0` must be a string, got 1"),
        ("exact=1", "`exact` must be true or false, got 1"),
        ("part.rate=fast", "rate` must be a finite number, got fast"),
        ("part.kind=c", "kind` must be one of a, b, got c"),
        ("part.kind.x=c", "`set` must not name a part of kind, got part.kind.x"),
    ],
)
def test_what_does_not_suit_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        configure(Whole(), [setting])
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("entry", entry_points(group="opmerge.studies"), ids=lambda it: it.name)
@pytest.mark.parametrize("quick", [False, True])
def test_the_settings_of_every_study_can_be_told_and_read_again(
    entry: EntryPoint, quick: bool
) -> None:
    if entry.name in ("celeba", "real-networks"):
        pytest.importorskip("torch")
    study: Study = entry.load()
    values = study.configured(quick).model_dump(mode="json")
    settings = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    plain = [line for line in settings if "={" not in line]
    assert study.configured(quick, plain) == study.configured(quick)


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
