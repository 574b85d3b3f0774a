"""Conditions in the shards of a prepared data set: read row by row, checked, drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from opmerge.data.prepared import CONDITION, Prepared, finish, shard_counts, write_shards
from opmerge.denoisers.conditions import (
    KeptConditions,
    check_told,
    kept_conditions,
    null_condition,
)
from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.denoisers.families import Rows
from opmerge.denoisers.inputs import DataInputs, NoiseInputs
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.loop import Draws, seeded_generator
from opmerge.schedules import cosine_schedule

TEXT, POOLED = "encoder_hidden_states", "pooled_projections"
ROWS: Mapping[str, Any] = {
    TEXT: np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float32),
    POOLED: np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32),
}
NULL = {name: values[:1] + 1 for name, values in ROWS.items()}
CHOICE = np.array([6, 0, 3, 3, 5, 1, 2, 4, 6, 0])


def prepared(
    folder: Path, rows: Mapping[str, Any] = ROWS, choice: Any = CHOICE, null: bool = True
) -> Prepared:
    """A data set of prompts alone, of these rows in shards of three."""
    count = len(next(iter(rows.values())))
    tables: dict[str, tuple[list[int], Mapping[str, Any]]] = {
        "index": ([len(choice)], {CONDITION: choice}),
        "conditions": (shard_counts(count, 3), rows),
        "null": ([1] if null else [], NULL),
        "samples": ([], {}),
    }
    shards = {
        kind: write_shards(
            *(folder, kind, counts, "any"),  # type: ignore[arg-type]
            lambda start, stop, arrays=arrays: {k: v[start:stop] for k, v in arrays.items()},
        )
        for kind, (counts, arrays) in tables.items()
    }
    described = {
        name: {"shape": list(values.shape[1:]), "dtype": str(values.dtype)}
        for name, values in rows.items()
    }
    content = {"identity": "any", "teacher": {}, "scaling": "", "notes": [], "sample_shape": None}
    return finish(
        folder, {**content, "num_samples": len(choice), "rows": described, "shards": shards}
    )


def kept(folder: Path, *given: Any) -> KeptConditions:
    found = kept_conditions(prepared(folder, *given))
    assert found is not None
    return found


def in_memory() -> Condition:
    return Condition({name: torch.from_numpy(values[CHOICE]) for name, values in ROWS.items()})


def same(found: Condition, expected: Condition) -> bool:
    assert found.rows.keys() == expected.rows.keys()
    return all(torch.equal(found.rows[name], expected.rows[name]) for name in expected.rows)


@pytest.mark.parametrize(
    "rows", [torch.tensor([9, 0, 0, 4]), torch.tensor([2]), slice(3, 8), slice(None)]
)
def test_rows_are_those_of_the_prompts_that_samples_have(tmp_path: Path, rows: Any) -> None:
    conditions, whole = kept(tmp_path), in_memory()
    assert len(conditions) == 10
    assert conditions.shapes == whole.shapes == {TEXT: (3, 2), POOLED: (5,)}
    assert conditions.row_bytes == whole.row_bytes == 4 * (6 + 5)
    assert same(conditions[rows], whole[rows])


def test_some_of_them_stay_in_their_files(tmp_path: Path) -> None:
    conditions, rows = kept(tmp_path), torch.tensor([7, 1, 1])
    some = conditions.take(rows)
    assert same(some[torch.tensor([2, 0])], in_memory()[torch.tensor([1, 7])])
    own = [parts[0].data_ptr() for parts in conditions.tables.values()]
    assert own == [parts[0].data_ptr() for parts in some.tables.values()]
    identities = {each.identity() for each in (conditions, some, kept(tmp_path / "again"))}
    assert len(identities) == 2  # the same data set elsewhere is the same


def test_the_row_for_guidance_is_there_if_the_teacher_knows_one(tmp_path: Path) -> None:
    null = null_condition(prepared(tmp_path / "a"))
    assert null is not None
    assert same(null, Condition({name: torch.from_numpy(row) for name, row in NULL.items()}))
    assert null_condition(prepared(tmp_path / "b", ROWS, CHOICE, False)) is None


SAMPLER = DDIM.from_schedule(cosine_schedule(4), "v_prediction")


def draws(seed: int, size: int) -> Draws:
    return Draws(seeded_generator(torch.device("cpu"), seed), size, slice(size))


def test_inputs_draw_the_same_from_files_as_from_memory(tmp_path: Path) -> None:
    data, conditions, rows = torch.randn(10, 4), kept(tmp_path), torch.tensor([5, 0, 9, 3])
    pair = [DataInputs(data, told) for told in (conditions, in_memory())]
    for inputs in (pair, [each.take(rows) for each in pair]):
        one, other = (each.draw(SAMPLER, [4, 2], draws(0, 6)) for each in inputs)
        assert torch.equal(one.z, other.z)
        assert one.condition is not None
        assert other.condition is not None
        assert same(one.condition, other.condition)
    identities = {pair[0].identity(), pair[0].take(rows).identity()}
    identities |= {DataInputs(data + 1, conditions).identity(), DataInputs(data).identity()}
    assert len(identities) == 4
    with pytest.raises(InputError, match="must have 9 entries, one a sample, got 10"):
        DataInputs(data[:9], conditions)


def test_noise_is_told_prompts_evenly(tmp_path: Path) -> None:
    inputs = NoiseInputs((4,), condition=kept(tmp_path))
    drawn = [inputs.draw(SAMPLER, [4], draws(seed, 8)) for seed in range(200)]
    pooled = torch.cat([each.condition.rows[POOLED] for each in drawn if each.condition])
    counts = [int((pooled == torch.from_numpy(row)).all(1).sum()) for row in ROWS[POOLED]]
    assert sum(counts) == 1600
    share = np.bincount(CHOICE) / len(CHOICE)  # a prompt that is there twice counts twice
    # 5 standard deviations of a binomial count
    assert np.all(np.abs(counts - 1600 * share) <= 5 * np.sqrt(1600 * share * (1 - share)))
    assert inputs.identity() != NoiseInputs((4,)).identity()


NEEDS = {TEXT: Rows((None, 2)), POOLED: Rows((5,))}


def test_conditions_are_checked_by_name_shape_and_class(tmp_path: Path) -> None:
    for told in (kept(tmp_path / "a"), in_memory()):
        check_told(NEEDS, told)
        for needs, words in (
            ({**NEEDS, "guidance": Rows()}, "the teacher reads, guidance, got encoder_hidden"),
            ({TEXT: NEEDS[TEXT]}, "`source` .*got pooled_projections, which this one does not"),
            ({**NEEDS, POOLED: Rows((6,))}, r"pooled_projections of shape \(6,\).*got \(5,\)"),
            ({**NEEDS, TEXT: Rows((None, 3))}, r"shape \(any, 3\).*got \(3, 2\)"),
            ({**NEEDS, TEXT: Rows((2,))}, r"shape \(2,\).*got \(3, 2\)"),
            ({**NEEDS, LABELS: Rows(below=3)}, "`labels` must be given"),
        ):
            with pytest.raises(InputError, match=words) as caught:
                check_told(needs, told)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got nothing; prepare the data"):
        check_told(NEEDS, None)
    check_told({}, None)


def test_labels_of_a_data_set_are_below_the_number_of_classes(tmp_path: Path) -> None:
    labels = {LABELS: np.array([0, 2, 5, 7])}
    told = kept(tmp_path, labels, np.array([3, 0, 1]), False)
    assert told[:].rows[LABELS].tolist() == [7, 0, 2]
    check_told({LABELS: Rows(below=8)}, told)
    with pytest.raises(InputError, match="`labels` must be < 7, the number of"):
        check_told({LABELS: Rows(below=7)}, told)
    with pytest.raises(InputError, match="`labels` must be left out"):
        check_told({}, told)


def test_only_the_rows_that_are_asked_for_are_in_memory(tmp_path: Path) -> None:
    size, count = 2**18, 64  # a MiB a row, 64 of them
    table = {TEXT: np.zeros((count, size), dtype=np.float32)}
    told = kept(tmp_path, table, np.arange(count), False)
    del table
    process = psutil.Process()
    before = process.memory_info().rss
    for row in range(0, count, 16):
        assert told[torch.tensor([row])].rows[TEXT].shape == (1, size)
    # two copies of a row, and what the system reads ahead of each
    assert process.memory_info().rss - before < 16 * 2**20
    assert told.row_bytes * len(told) == 64 * 2**20
