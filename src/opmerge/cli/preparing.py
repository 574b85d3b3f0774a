"""The command that prepares a data set for a teacher: latents and embeddings, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opmerge.cli import networks, runs
from opmerge.cli.progress import bars_in_turn, resumable, say
from opmerge.launcher import is_first

if TYPE_CHECKING:
    from opmerge.settings.commands import PreparingOptions


def prepare(asked: PreparingOptions) -> None:
    """Encode images and captions once, as a teacher's network reads them.

    The folder that is written is a source of data for every command. An interrupted preparation
    goes on when it is started again.

    Examples:
        opmerge prepare my_images/ --teacher path/to/model --output_dir runs/data
        opmerge prepare --prompts prompts.txt --teacher path/to/model --output_dir runs/prompts
    """
    networks.check_there(asked.source, asked.teacher)

    from opmerge import latents

    networks.prepare_libraries()
    runs.prepare_folder(asked.output_dir)
    encoding = latents.read_encoding(asked.teacher)
    contents = latents.read_contents(asked, encoding, networks.open_samples)
    if contents.source is not None:
        say(f"{contents.source.name}: {contents.source.num_samples:,} samples")
        for note in contents.source.notes:
            say(f"note: {note}")
    if contents.prompts:
        say(f"{len(contents.index):,} prompts, {len(contents.prompts):,} of them distinct")
    with resumable("the same command"), bars_in_turn() as report:
        found = latents.prepare(asked, encoding, contents, report)
    if is_first():
        runs.write_config(asked.output_dir, "prepare", asked)
        shape = "" if found.sample_shape is None else f" of shape {found.sample_shape}"
        what = "prompts" if found.sample_shape is None else "samples"
        told = ", ".join(f"{name} {rows.shape or ''}".rstrip() for name, rows in found.rows.items())
        print(f"{found.num_samples:,} {what}{shape}{told and f', each told {told}'}")
        print(f"written: {asked.output_dir}")
