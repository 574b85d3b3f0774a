"""Models by their names on the Hugging Face hub: ``OWNER/NAME``, downloaded by diffusers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opmerge.errors import InputError, not_installed

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME, as the hub names models."""


def is_hub_name(text: str) -> bool:
    """Whether a text may name a model of the hub: no path of this machine begins as it does."""
    return HUB_NAME.fullmatch(text) is not None and not Path(text).parent.is_dir()


def hub_scheduler_config(name: str) -> Mapping[str, Any]:
    """``scheduler_config.json`` of a model, from the hub's cache or else downloaded.

    Nothing else of the model is: a schedule that depends on the size of its samples is that of its
    config alone.

    Raises:
        InputError: if diffusers is not installed, or the hub or its cache has no such file.
    """
    try:
        from diffusers import DDIMScheduler
    except ImportError as error:
        raise not_installed("schedule", "diffusers") from error
    failures: list[Exception] = []
    for place in ({"subfolder": "scheduler"}, {}):  # flat repositories have it beside the weights
        try:
            with quiet():
                return DDIMScheduler.load_config(name, **place)
        except Exception as error:  # the network's, the hub's or a missing file: told in one line
            failures.append(error)
    requirement = (
        f"must be a known name, a file, or a model of the hub ({first_cause(failures[0])})"
    )
    remedy = "download its scheduler_config.json where there is a network, and pass the file"
    raise InputError("schedule", requirement, name, remedy) from failures[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers logs of a file that it cannot have, which the error says, and warnings
    of its own calls."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def first_cause(error: BaseException) -> str:
    """The first line of the first of several errors that led to one another."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
