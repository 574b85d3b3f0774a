"""Any file of tensors: one line, or the numbers that torch and safetensors read in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import accepted, damages, fuzz
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from opmerge.data import open_source

Array = NDArray[Any]

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
         torch.uint8, torch.int8, torch.int64, torch.bool, torch.complex64]  # fmt: skip
SHAPES = [(), (3,), (1, 4), (2, 2), (3, 4), (0, 3), (3, 0), (2, 2, 3), (2, 3, 2, 2), (2, 4, 4, 3)]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any tensor, with values such as the bytes make."""
    kind, shape = draw(st.sampled_from(KINDS)), draw(st.sampled_from(SHAPES))
    count = math.prod(shape)
    if draw(st.booleans()):  # finite, that is
        whole = draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
        return torch.tensor(whole).reshape(shape).to(kind)
    size = count * kind.itemsize
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if kind == torch.bool:
        content = bytearray(byte & 1 for byte in content)
    return torch.frombuffer(content, dtype=kind).reshape(shape) if size else torch.zeros(shape)


def as_samples(values: torch.Tensor) -> Array | None:
    """What samples a tensor is, or None where it is none, by torch alone."""
    if values.is_complex() or values.ndim < 2 or len(values) < 2 or not values.numel():
        return None
    rows = values.double()
    if not rows.isfinite().all():
        return None
    if values.dtype == torch.uint8 and rows.max() > 1:
        rows = rows / 127.5 - 1
        if values.ndim == 4 and values.shape[-1] in (1, 3) and values.shape[1] not in (1, 3):
            rows = rows.movedim(-1, 1)
    return rows.reshape(len(rows), -1).numpy()


@fuzz(
    5_000,
    values=tensors(),
    other=st.one_of(st.none(), tensors()),
    suffix=st.sampled_from([".pt", ".PT", ".safetensors"]),
    damage=st.one_of(st.none(), damages()),
)
def test_files_of_tensors(
    values: torch.Tensor,
    other: torch.Tensor | None,
    suffix: str,
    damage: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    content = {"samples": values} | ({} if other is None else {"other": other})
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(values if other is None else content, path)
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
    got = accepted(lambda: np.concatenate(list(open_source(str(path)).batches())))
    if damage is None:
        expected = as_samples(values)
        assert (got is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(got, expected)
