"""Numbers of the study `celeba` by encoding, and the sentences that tell them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opmerge.page.sentences import number, percent

__all__ = [
    "CANONICAL",
    "FORMS",
    "PAPERS_RULE",
    "PLANNED",
    "at",
    "encoder_label",
    "encoding_label",
    "encodings",
    "largest_time",
    "pixel_contest",
    "pixel_sentence",
    "place_of",
    "quality_sentence",
    "same",
    "sources",
    "win_counts",
    "winner_rows",
    "winner_sentence",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Place = tuple[str, str, int]

CANONICAL = ("vanilla", "progressive", "consistency", "boot")
FORMS = ("diagonal", "full")
PLANNED = "certified"
PAPERS_RULE = "operator-copy"


def place_of(row: Row) -> Place:
    """Source, encoder and seed."""
    return row["source"], row["encoder"], row["seed"]


def encodings(record: Record) -> list[Place]:
    """Every encoder of every source and seed."""
    return [place_of(row) for row in record["tables"]["encoders"]]


def sources(record: Record) -> list[str]:
    """The sources."""
    return [row["source"] for row in record["splits"]]


def encoder_label(name: str) -> str:
    """``MS-SSIM VAE`` for ``ms-ssim-vae``; a folder as the study calls it."""
    return _LABELS.get(name, name)


_LABELS = {"ms-ssim-vae": "MS-SSIM VAE", "mse-vae": "β-VAE", "pca": "PCA"}


def encoding_label(place: Place, record: Record) -> str:
    """Encoder, source and seed as far as there are several."""
    source, encoder, seed = place
    several = len({p[2] for p in encodings(record) if p[:2] == place[:2]}) > 1
    parts = [encoder_label(encoder), *([source] if len(sources(record)) > 1 else [])]
    return ", ".join(parts + ([f"seed {seed}"] if several else []))


def largest_time(record: Record) -> float:
    """The longest optimisation time of a merge: the paper's, unless it was set."""
    return float(record["settings"]["merge_times"][-1])


def same(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def at(rows: Sequence[Row], place: Place, **wanted: Any) -> list[Row]:
    """The rows of an encoding with these values."""
    return same([row for row in rows if place_of(row) == place], **wanted)


def winner_rows(
    record: Record, form: str, merge_rule: str = PAPERS_RULE, merge_time: float | None = None
) -> list[Row]:
    """A row an encoding: who errs least of the four, and by how much."""
    time = largest_time(record) if merge_time is None else merge_time
    rows = record["tables"]["winners"]
    return same(rows, form=form, merge_rule=merge_rule, merge_time=time)


def pixel_contest(record: Record, place: Place, merge_time: float) -> tuple[Row, Row]:
    """Who errs least of the four in pixels, and the next."""
    rows = at(record["tables"]["pixels"], place, merge_time=merge_time)
    found = sorted(
        (row for row in rows if row["plan"] in CANONICAL), key=lambda row: float(row["paired_rms"])
    )
    return found[0], found[1]


def win_counts(record: Record, merge_time: float | None = None) -> dict[str, int]:
    """In how many encodings BOOT errs least: by either form, and decoded."""
    time = largest_time(record) if merge_time is None else merge_time
    counts = {
        form: sum(row["winner"] == "boot" for row in winner_rows(record, form, merge_time=time))
        for form in FORMS
    }
    first = [pixel_contest(record, place, time)[0]["plan"] for place in encodings(record)]
    return {**counts, "pixels": first.count("boot")}


def winner_sentence(record: Record, row: Row) -> str:
    """Who wins where, by how much, and whether the interval tells them apart."""
    spectrum = at(record["tables"]["spectra"], place_of(row), form=row["form"])[0]
    told = "" if row["is_separated"] else ", which is not told apart"
    return (
        f"{encoding_label(place_of(row), record)}, {row['form']}: "
        f"λ ≤ 1 for {percent(spectrum['share_small'])} of the directions with "
        f"{percent(spectrum['variance_small'])} of the variance; {row['winner']} errs least, "
        f"{row['second']} {row['ratio']:.3g} times as much "
        f"({row['ratio_low']:.3g} to {row['ratio_high']:.3g}){told}."
    )


def pixel_sentence(record: Record) -> Iterator[str]:
    """Where latents and pixels disagree on who wins."""
    for row in winner_rows(record, "full"):
        first, second = pixel_contest(record, place_of(row), largest_time(record))
        if first["plan"] != row["winner"]:
            ratio = second["paired_rms"] / first["paired_rms"]
            yield (
                f"{encoding_label(place_of(row), record)}: in latents {row['winner']} errs least, "
                f"in decoded pixels {first['plan']} ({second['plan']} {ratio:.3g} times as much): "
                "what it errs less in are directions that decode to little."
            )


def quality_sentence(row: Row) -> str:
    """Held-out MS-SSIM beside that of PCA with as many latents."""
    told = (
        f"{encoder_label(row['encoder'])}, {row['source']}, seed {row['seed']}: MS-SSIM "
        f"{row['ms_ssim']:.3f} and squared error {number(row['mse'])} on {row['num_images']} "
        f"held-out images"
    )
    if row["encoder"] == "pca" or row["pca_ms_ssim"] is None:
        return f"{told}."
    ahead = row["ms_ssim"] - row["pca_ms_ssim"]
    word = "above" if ahead > 0 else "below"
    return f"{told}, {abs(ahead):.3f} {word} PCA with as many latents."
