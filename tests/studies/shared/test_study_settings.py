"""Settings of a study from KEY=VALUE, checked by their type."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

import pytest
from pydantic import Field, model_validator

from opmerge.cli.studies import load_study, study_names
from opmerge.errors import InputError
from opmerge.settings.base import Settings
from opmerge_studies.shared.study import configure


class Part(Settings):
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


class Whole(Settings):
    steps: int = Field(4, ge=1)
    names: tuple[str, ...] = ("x",)
    title: str | None = None
    exact: bool = False
    part: Part = Part()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.names) > self.steps:
            raise InputError("names", f"must hold at most {self.steps}", len(self.names))
        return self


def test_settings_are_replaced_at_any_depth() -> None:
    settings = ["steps=8", 'names=["y","z"]', "title=on 8 steps", "exact=true", "part.rate=2"]
    expected = Whole(steps=8, names=("y", "z"), title="on 8 steps", exact=True, part=Part(rate=2.0))
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
        ('names=["a","b","c","d","e"]', "`names` must hold at most 4, got 5"),
        ("names=boot", "`names` must be a valid tuple, got boot"),
        ("names=[1]", "`names.0` must be a string, got 1"),
        ("exact=1", "`exact` must be true or false, got 1"),
        ("part.rate=fast", "`part.rate` must be a finite number, got fast"),
        ("part.kind=c", "`part.kind` must be one of a, b, got c"),
        ("part.kind.x=c", "`set` must not name a part of kind, got part.kind.x"),
    ],
)
def test_what_does_not_suit_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        configure(Whole(), [setting])
    assert str(caught.value) == message


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("quick", [False, True])
def test_the_settings_of_every_study_can_be_told_and_read_again(name: str, quick: bool) -> None:
    study = load_study(name)
    if study.trains_networks:
        pytest.importorskip("torch")
    settings: Any = study.configured(quick)
    values = settings.model_dump(mode="json")
    first = next(iter(values))
    assert configure(settings, [f"{first}={json.dumps(values[first])}"]) == settings
    assert type(settings).model_validate_json(json.dumps(values)) == settings
