"""A data set as a teacher's network reads it, computed once: ``opmerge prepare``.

Everything that decides a shard is in its identity (what encodes, which files and texts, how many at
a time), so a preparation that was killed goes on, and ends with the bytes that it would have had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from opmerge.data import BUILTIN_SOURCES, Source, open_source
from opmerge.data.captions import folder_labels, read_captions, read_prompts
from opmerge.data.prepared import (
    CONDITION,
    PROMPTS,
    SAMPLES,
    Arrays,
    Kind,
    Prepared,
    finish,
    free_bytes,
    identity_of,
    in_batches,
    open_prepared,
    shard_counts,
    write_shards,
)
from opmerge.data.source import channels_last_remedy
from opmerge.denoisers.conditions import check_told
from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.denoisers.inputs import load_labels, network_shape
from opmerge.errors import InputError
from opmerge.files import GO_ON, expand_home, write_atomic
from opmerge.latents.encoding import Encoding, on_device
from opmerge.latents.images import check_black, check_range
from opmerge.launcher import process_state
from opmerge.settings.commands import PreparingOptions
from opmerge.settings.data import SourceOptions
from opmerge.store import digest

_SHARD_BYTES = 2**29

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_DOING: dict[Kind, str] = {
    "index": "writing the index",
    "null": "encoding no prompt",
    "conditions": "encoding prompts",
    "samples": "encoding images",
}


@dataclass(frozen=True, eq=False)
class Contents:
    """What is prepared: N samples or none, and what is told of each.

    Args:
        prompts: distinct, or none of a teacher that reads no text.
        labels: distinct, or none of a teacher that is told no class.
        index: (N,) which prompt or label is each sample's.
        stamp: JSON values by which other files are told from these.
    """

    source: Source | None
    prompts: tuple[str, ...]
    labels: tuple[int, ...]
    index: NDArray[np.int64]
    stamp: Any

    @property
    def num_conditions(self) -> int:
        """Prompts or labels that are distinct."""
        return len(self.prompts) or len(self.labels)


def read_contents(
    asked: PreparingOptions,
    encoding: Encoding,
    open_as: Callable[[str, SourceOptions], Source] = open_source,
) -> Contents:
    """What is to be prepared, opened: images, and the caption or class of each.

    Raises:
        InputError: if there is nothing to prepare, images cannot be read or are of another shape
            than the teacher's, or captions or labels are missing, too many or not the teacher's.
    """
    source, stamp = None, None
    if encoding.reads_text:  # before thousands of images are looked through
        empty, remedy = encoding.told([""]), "its text encoders are of another model"
        check_told(encoding.needs, empty, "teacher", remedy)
    if asked.source is not None:
        options = _options(asked, encoding)
        source = open_as(asked.source, options)
        stamp = [options.model_dump(), source.shape, source.scaling, _stamp(asked.source, source)]
    told = _told_of_each(asked, encoding, source)
    number = {value: row for row, value in enumerate(dict.fromkeys(told))}
    index = np.array([number[value] for value in told], dtype=np.int64)
    prompts = tuple(value for value in number if isinstance(value, str))
    labels = tuple(value for value in number if isinstance(value, int))
    if labels:
        check_told(encoding.needs, _classes(labels))
    return Contents(source, prompts, labels, index, stamp)


def prepare(
    asked: PreparingOptions,
    encoding: Encoding,
    contents: Contents,
    report: Report = lambda what, done, total: None,
) -> Prepared:
    """Encode everything that is not yet in the folder, shard by shard.

    Several processes (torchrun, accelerate) share the shards out.

    Raises:
        InputError: if the folder holds another data set, images are not in [-1, 1] or not of the
            teacher's shape, or there is no room.
    """
    work = _Preparation(asked, encoding, contents)
    folder, state = asked.output_dir, process_state()
    if identity_of(folder) not in (None, work.identity):
        requirement = "must be a new folder, or that of the same images, prompts and options"
        remedy = "choose another, or remove this one"
        raise InputError("output_dir", requirement, f"another data set in {folder}", remedy)
    work.require_room()
    shards = work.write(state.device, (state.process_index, state.num_processes), report)
    state.wait_for_everyone()
    if state.num_processes > 1:  # all are there now, and only looked at
        shards = work.write(state.device, (0, 1), report) if state.is_main_process else shards
    if state.is_main_process:
        if contents.prompts:
            lines = "".join(json.dumps(prompt) + "\n" for prompt in contents.prompts)
            write_atomic(folder / PROMPTS, lines, GO_ON)
        finish(folder, work.content(shards))
    state.wait_for_everyone()
    return open_prepared(folder)


@dataclass(frozen=True, eq=False)
class _Preparation:
    """One preparation: what its shards are and how each is made."""

    asked: PreparingOptions
    encoding: Encoding
    contents: Contents

    @cached_property
    def identity(self) -> str:
        """Digest of all that decides the shards."""
        contents, options = self.contents, {"batch_size", "shard_size"}
        if self.asked.embeddings != "float32":  # older data sets do not know it
            options.add("embeddings")
        told = [contents.prompts, contents.labels, contents.index.tolist(), contents.stamp]
        return digest([self.encoding.digest, told, self.asked.model_dump(include=options)])

    @cached_property
    def counts(self) -> Mapping[Kind, list[int]]:
        """Rows of each shard: as many as are asked for, and no more than fit into its bytes."""
        contents, size = self.contents, self.asked.shard_size
        counts: dict[Kind, list[int]] = {"index": [], "null": [], "conditions": [], "samples": []}
        if self.first is not None:
            most = min(size, max(1, _SHARD_BYTES // max(self.first.row_bytes, 1)))
            counts["index"] = [len(contents.index)]
            counts["null"] = [] if self.null is None else [1]
            counts["conditions"] = shard_counts(contents.num_conditions, most)
        if contents.source is not None:
            most = min(size, max(1, _SHARD_BYTES // self.sample_bytes))
            counts["samples"] = shard_counts(contents.source.num_samples, most)
        return counts

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 4 * math.prod(self.sample_shape or ())

    @cached_property
    def null(self) -> Condition | None:
        """What is told where there is no prompt or class."""
        null = self.encoding.null() if self.contents.num_conditions else None
        return None if null is None else self._as_stored(null)

    @cached_property
    def first(self) -> Condition | None:
        """What is told of the first sample."""
        return self._told(0, 1) if self.contents.num_conditions else None

    @cached_property
    def sample_shape(self) -> tuple[int, ...] | None:
        """Of what images give, if it is what the network reads; None without images.

        Raises:
            InputError: if it is not.
        """
        if self.contents.source is None:
            return None
        wanted, source = self.encoding.sample_shape, self.contents.source
        if self.encoding.vae is None:
            if [n for n in source.shape if n != 1] != [n for n in wanted if n != 1]:
                requirement = f"must hold samples of the shape that the network reads, {wanted}"
                remedy = channels_last_remedy(source.shape)
                raise InputError(source.name, requirement, source.shape, remedy)
            return wanted
        made, shape = self.encoding.image_shape, network_shape(source)
        if made is not None and (shape[0] not in (1, made[0]) or shape[1:] != made[1:]):
            requirement = f"must hold images of the teacher's shape, {made}, or grey ones"
            remedy = channels_last_remedy(source.shape)
            raise InputError(source.name, requirement, source.shape, remedy)
        found = tuple(self.encoding.samples(torch.zeros(1, *shape)).shape[1:])
        if found != wanted:
            requirement = f"must give samples of the shape that the network reads, {wanted}"
            raise InputError(source.name, requirement, found)
        return found

    def require_room(self) -> None:
        """Refuse to begin what will not fit on the disk."""
        done = sum(path.stat().st_size for path in self.asked.output_dir.glob("*.safetensors"))
        needed = 8 * len(self.contents.index) - done
        if self.first is not None:
            needed += self.contents.num_conditions * self.first.row_bytes
        if self.contents.source is not None:
            needed += self.contents.source.num_samples * self.sample_bytes
        free = free_bytes(self.asked.output_dir)
        if needed > free:
            requirement = f"must have room for {needed / 2**30:.3g} GiB"
            raise InputError("output_dir", requirement, f"{free / 2**30:.3g} GiB that are free")

    def write(
        self, device: torch.device, turn: tuple[int, int], report: Report
    ) -> dict[Kind, list[dict[str, Any]]]:
        """Write the shards that are this process' turn; what ``prepared.json`` says of them."""
        vae = [] if self.encoding.vae is None else [self.encoding.vae]
        makers: dict[Kind, tuple[Callable[[int, int], Arrays], list[nn.Module]]] = {
            "index": (lambda start, stop: {CONDITION: self.contents.index[start:stop]}, []),
            "null": (lambda start, stop: {} if self.null is None else _arrays(self.null), []),
            "conditions": (self._conditions, self.encoding.text_encoders),
            "samples": (self._samples, vae),
        }
        written: dict[Kind, list[dict[str, Any]]] = {}
        for kind, (make, parts) in makers.items():
            counts = self.counts[kind]

            def progress(done: int, kind: Kind = kind, total: int = sum(counts)) -> None:
                report(_DOING[kind], done, total)

            with on_device(parts, device):
                written[kind] = write_shards(
                    self.asked.output_dir, kind, counts, self.identity, make, progress, turn
                )
        return written

    def content(self, shards: Mapping[Kind, list[dict[str, Any]]]) -> dict[str, Any]:
        """What ``prepared.json`` says of the data set."""
        source, encoding = self.contents.source, self.encoding
        scaling = "" if source is None else source.scaling
        if source is not None and encoding.vae is not None:
            scaling = f"latents as the network reads them, of {scaling}"
        rows = {} if self.first is None else self.first.rows
        return {
            "identity": self.identity,
            "source": self.asked.source,
            "teacher": {
                "folder": encoding.folder.resolve().name,
                "pipeline": type(encoding.pipeline).__name__,
                "digest": encoding.digest,
            },
            "sample_shape": self.sample_shape,
            "num_samples": len(self.contents.index) if source is None else source.num_samples,
            "scaling": scaling,
            "notes": () if source is None else source.notes,
            "rows": {
                name: {"shape": values.shape[1:], "dtype": str(values.numpy().dtype)}
                for name, values in rows.items()
            },
            "prompts": PROMPTS if self.contents.prompts else None,
            "shards": shards,
        }

    def _conditions(self, start: int, stop: int) -> Arrays:
        batches = in_batches(start, stop, self.asked.batch_size)
        parts = [_arrays(self._told(first, last)) for first, last in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _told(self, start: int, stop: int) -> Condition:
        contents = self.contents
        if contents.prompts:
            return self._as_stored(self.encoding.told(contents.prompts[start:stop]))
        return _classes(contents.labels[start:stop])

    def _as_stored(self, told: Condition) -> Condition:
        """What is told, its real numbers in the precision that is asked for.

        Raises:
            InputError: if one is beyond it.
        """
        if self.asked.embeddings == "float32":
            return told
        rows = {k: v.half() if v.is_floating_point() else v for k, v in told.rows.items()}
        for name, values in rows.items():
            if values.is_floating_point() and not values.isfinite().all():
                requirement = f"must be float32: {name} has numbers beyond 65,504"
                raise InputError("embeddings", requirement, self.asked.embeddings)
        return Condition(rows)

    def _samples(self, start: int, stop: int) -> Arrays:
        source, shape = self.contents.source, self.sample_shape
        assert source is not None, "without images there are no shards of samples"
        assert source.rows is not None, "every source that is opened can be read in parts"
        assert shape is not None, "images give samples"
        samples = np.empty((stop - start, *shape), dtype=np.float32)
        for first, last in in_batches(start, stop, self.asked.batch_size):
            rows = torch.from_numpy(source.rows(first, last).astype(np.float32))
            if self.encoding.vae is None:
                encoded = rows.view(-1, *shape)
            else:
                images = rows.view(-1, *network_shape(source))
                low, high = check_range(images)
                if first == 0:
                    check_black(source, low, high)
                encoded = self.encoding.samples(images)
            samples[first - start : last - start] = encoded.numpy()
        return {SAMPLES: samples}


def _options(asked: PreparingOptions, encoding: Encoding) -> SourceOptions:
    """How images are read: of the size and in the colours that the teacher makes."""
    shape = encoding.image_shape
    side = asked.image_size
    if side is None and shape is not None and shape[1] == shape[2]:
        side = shape[1]
    options = SourceOptions(grey=shape is not None and shape[0] == 1, split=asked.split)
    return options if side is None else options.replaced(image_size=side, patch_size=side)


def _told_of_each(
    asked: PreparingOptions, encoding: Encoding, source: Source | None
) -> list[str] | list[int]:
    """The prompt or the class of each sample, or each prompt where there are no samples."""
    if asked.prompts is not None and not encoding.reads_text:
        encoding.told(["any"])  # which is refused
    if asked.labels is not None and LABELS not in encoding.needs:
        raise InputError("labels", "must be left out for this teacher", asked.labels)
    if source is None and (asked.prompts is None or not encoding.reads_text):
        remedy = "pass a folder of images, or `prompts` alone for runs without data"
        raise InputError("source", "must be given", "none", remedy)
    if encoding.reads_text:
        return _prompts(asked, source)
    if LABELS not in encoding.needs or source is None:
        return []
    if asked.labels is not None:
        return load_labels(asked.labels, source.num_samples).tolist()
    if source.files is None:
        requirement = "must be given for this teacher, which is told classes"
        raise InputError("labels", requirement, "none")
    return folder_labels(source.files)[0].tolist()


def _prompts(asked: PreparingOptions, source: Source | None) -> list[str]:
    """A prompt of each sample, or prompts alone."""
    if asked.prompts is None:
        if source is not None and source.files is not None:
            return read_captions(source.files, asked.caption_column)
        requirement = "must be given for this teacher: a prompt a line, one of each sample"
        raise InputError("prompts", requirement, "none")
    prompts = read_prompts(asked.prompts)
    if source is not None and len(prompts) != source.num_samples:
        requirement = f"must hold a prompt for each of {source.num_samples} samples, a line each"
        raise InputError("prompts", requirement, f"{len(prompts)} in {asked.prompts}")
    return prompts


def _stamp(argument: str, source: Source) -> Any:
    """By what the files of a source are told from others: names, sizes, times of change."""
    if source.files is not None:
        names, folder = source.files.names, source.files.folder
        stats = [(folder / name).stat() for name in names]
        return [
            [name, each.st_size, each.st_mtime_ns] for name, each in zip(names, stats, strict=True)
        ]
    if argument in BUILTIN_SOURCES:
        return argument
    stat = expand_home(argument).stat()
    return [argument, stat.st_size, stat.st_mtime_ns]


def _classes(labels: Sequence[int]) -> Condition:
    return Condition({LABELS: torch.tensor(labels)})


def _arrays(told: Condition) -> dict[str, NDArray[Any]]:
    return {name: values.numpy() for name, values in told.rows.items()}
