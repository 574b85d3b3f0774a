"""The page of the study `celeba`: encoders, their latents, and which plan is best there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opmerge.page.layout import Picture, Section, draw_section, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.study import Answer
from opmerge_studies.celeba.figures import latent_figure, pixel_figure, spectrum_figure
from opmerge_studies.celeba.numbers import (
    FORMS,
    PAPERS_RULE,
    at,
    encoder_label,
    encoding_label,
    encodings,
    largest_time,
    pixel_contest,
    pixel_sentence,
    place_of,
    quality_sentence,
    same,
    sources,
    win_counts,
    winner_rows,
    winner_sentence,
)
from opmerge_studies.celeba.tables import encoder_table, error_table, winner_table

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_TEACHER = "teacher"
_GIB, _MIB = 2**30, 2**20
_ROUNDING = 1e-9  # of a gain
_TIMES = 1.1  # a gain from which it is told as a factor


def answer(record: Record) -> Answer:
    """Whether BOOT errs least of the paper's four, and where it does not."""
    return Answer(
        finding=_finding(record),
        subject=_subject(record),
        evidence=(
            *(winner_sentence(record, row) for form in FORMS for row in winner_rows(record, form)),
            *pixel_sentence(record),
            _sum_sentence(record),
            _rule_sentence(record),
            *(quality_sentence(row) for row in record["tables"]["encoders"]),
            *_neural_sentence(record),
        ),
        limits=_limits(record),
        overturned_by=(
            "Latents of CelebA itself in which another of the four errs least although nearly all "
            "of the variance has λ ≤ 1;",
            "students that are networks, trained for long, in another order (neural=true).",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """Wins of BOOT, the gain of the certified plan, and the quality of encoders."""
    count, wins = len(encodings(record)), win_counts(record)
    found = [
        ("BOOT least of four in latents, diagonal", f"{wins['diagonal']} of {count}"),
        ("in latents, full covariance", f"{wins['full']} of {count}"),
        ("in decoded pixels", f"{wins['pixels']} of {count}"),
        (
            "least told apart from second by its interval, full covariance",
            f"{sum(row['is_separated'] for row in winner_rows(record, 'full'))} of {count}",
        ),
        (
            "best named over certified plan, full covariance",
            _range([row["gain"] for row in winner_rows(record, "full")]),
        ),
    ]
    for source in sources(record):
        rows = same(record["tables"]["encoders"], source=source)
        for encoder in dict.fromkeys(row["encoder"] for row in rows):
            values = [row["ms_ssim"] for row in same(rows, encoder=encoder)]
            name = f"held-out MS-SSIM, {encoder_label(encoder)}, {source}"
            found.append((name, _range(values)))
    return found


def sections(record: Record) -> Iterator[Section]:
    """Figures, pictures and tables of the page."""
    for source in sources(record):
        yield _reconstruction_section(record, source)
    yield Section(
        "Encoders",
        "Means over held-out images, of what decoding the mean latents gives back.",
        table=encoder_table(record),
        is_wide=True,
    )
    time = largest_time(record)
    for source in sources(record):
        yield draw_section(
            f"Latents of {source}",
            "Solid: eigenvalues of the covariance, with 95 % intervals over images; dashed: "
            "variances of single latents, which the paper takes for eigenvalues. Line: λ = 1.",
            lambda source=source: spectrum_figure(record, source),  # type: ignore[misc]
        )
        yield draw_section(
            f"Error in latents of {source}",
            f"By the linear theory, operator copy, s = {time:g}. Filled: full covariance; hollow: "
            "diagonal. Bars: 95 % intervals over images. Student and teacher are positive "
            "multiples of the same noise in every direction, so this is their paired error too. "
            "Plans that err ten times as much and more are in the table.",
            lambda source=source: latent_figure(record, source),  # type: ignore[misc]
        )
        yield draw_section(
            f"Error in pixels of {source}",
            f"Root mean square of student minus teacher, decoded from equal noise, full "
            f"covariance, s = {time:g}. Bars: 95 % intervals over samples. Plans that err ten "
            "times as much and more are in the table.",
            lambda source=source: pixel_figure(record, source),  # type: ignore[misc]
        )
    yield Section(
        "Who errs least",
        "Of the paper's four strategies, by the linear theory.",
        table=winner_table(record),
        is_wide=True,
    )
    yield Section(
        "All errors",
        "W2 in latents by the linear theory; paired error and sliced W2 of a pixel, decoded.",
        table=error_table(record),
        is_wide=True,
    )
    for place in _pictured(record):
        yield from _output_sections(record, place)
    yield _cost_section(record)
    if record["neural"] is not None:
        yield _neural_section(record["neural"])


def _finding(record: Record) -> str:
    count, wins, time = len(encodings(record)), win_counts(record), largest_time(record)
    full = winner_rows(record, "full")
    most = sum(_spectrum(record, row)["share_small"] > 0.5 for row in full)
    others = [encoding_label(place_of(row), record) for row in full if row["winner"] != "boot"]
    told = f"; not {'; '.join(others)}" if others else ""
    return (
        f"Most λ are ≤ 1 in {most} of {count} encodings, and of the paper's four strategies BOOT "
        f"errs least in latents in {wins['diagonal']} of {count} by the diagonal, as the paper has "
        f"it, in {wins['full']} by the full covariance (s = {time:g}{told}), and once decoded in "
        f"{wins['pixels']}. {_condition(record)} "
        f"{_gain_sentence(max(row['gain'] for row in full))}"
    )


def _gain_sentence(gain: float) -> str:
    """How much better than the best named strategy the certified plan is at most."""
    if gain < 1 + _ROUNDING:
        return "The best named strategy is the certified plan (to rounding)."
    if gain < _TIMES:
        return (
            f"The certified plan errs up to {percent(1 - 1 / gain)} less than the best named one."
        )
    return f"The certified plan errs up to {gain:.3g} times less than the best named one."


def _condition(record: Record) -> str:
    """How often the sums over all λ foretell who errs least."""
    rows = [row for form in FORMS for row in winner_rows(record, form)]
    right = sum(row["winner"] == ("boot" if row["continuum"] > 1 else "vanilla") for row in rows)
    return (
        "Not how many λ exceed 1 but whether Σ(1 − √λ)² exceeds Σ(√λ ln √λ)² should tell BOOT from "
        f"vanilla in latents: it does in {right} of {len(rows)}."
    )


def _spectrum(record: Record, row: Row) -> Row:
    return at(record["tables"]["spectra"], place_of(row), form=row["form"])[0]


def _subject(record: Record) -> str:
    seeds = len(record["settings"]["seeds"])
    told = [
        f"{row['source']}, {row['images']:,} images of {' × '.join(map(str, _shape(record, row)))}"
        for row in record["splits"]
    ]
    return f"{'; '.join(told)}; {seeds} seed{'s' if seeds > 1 else ''}"


def _shape(record: Record, split: Row) -> Sequence[int]:
    rows = same(record["tables"]["encoders"], source=split["source"])
    channels, *sides = rows[0]["shape"]
    return sides if channels == 1 else (channels, *sides)


def _sum_sentence(record: Record) -> str:
    """How near the sums come to the ratio of the two errors."""
    errors = {
        (place_of(row), row["form"], row["plan"]): row["w2"]
        for row in same(
            record["tables"]["plans"], merge_rule=PAPERS_RULE, merge_time=largest_time(record)
        )
    }
    off = [
        errors[place_of(row), form, "vanilla"]
        / errors[place_of(row), form, "boot"]
        / row["continuum"]
        for form in FORMS
        for row in winner_rows(record, form)
    ]
    return (
        "In a direction vanilla errs as |1 − √λ| and BOOT as √λ |ln √λ| when T is large: one "
        "without variance counts fully for vanilla and nothing for BOOT, but decodes to little. "
        "The ratio of the two errors in latents is "
        f"{_range(off)} times what the sums over all directions say."
    )


def _rule_sentence(record: Record) -> str:
    rows = [row for form in FORMS for row in winner_rows(record, form, "denoiser-copy")]
    wins = sum(row["winner"] == "boot" for row in rows)
    return (
        f"Under denoiser copy BOOT errs least of the four in {wins} of {len(rows)} (encodings in "
        "both forms)."
    )


def _neural_sentence(record: Record) -> Iterator[str]:
    found = record["neural"]
    if found is not None:
        yield (
            f"Networks on the latents of {encoder_label(found['encoder'])}, {found['source']}, "
            f"T = {found['steps']}: Spearman's ρ of predicted and measured errors over "
            f"{len(found['plans'])} plans is {found['spearman']:.2f} (p = "
            f"{number(found['p_value'])})."
        )


def _limits(record: Record) -> tuple[str, ...]:
    few = [row for row in record["splits"] if row["images"] < 1000]
    return (
        "Latents are taken to be Gaussian, and students linear; plain cosine schedule, gradient "
        "flow.",
        f"At s = {largest_time(record):g} the better plans err by a millionth of the teacher's "
        "spread, which no eye sees: their error maps are magnified, each by its own factor.",
        "Intervals are those of independent images. Patches overlap, and so do frames: there they "
        "are too narrow. Of few images a resample has smaller small eigenvalues, and its interval "
        "may miss the value itself. The encoder is held fixed; seeds show what training it again "
        "changes.",
        "The published autoencoder has 128 latents for 64 × 64 colour images and was trained on "
        "162,770 faces. Whatever is smaller here says what the method finds, not what CelebA's "
        "latents are like.",
        *(
            f"{row['source']} has {row['images']} images to train on: an autoencoder learns them "
            "by heart, and small eigenvalues are biased towards 0."
            for row in few
        ),
    )


def _reconstruction_section(record: Record, source: str) -> Section:
    split = same(record["splits"], source=source)[0]
    rows = same(record["reconstructions"], source=source)
    quality = same(record["tables"]["encoders"], source=source)
    return Section(
        f"Reconstructions of {source}",
        f"Of {split['held_out']} images held out ({split['split']}); first seed.",
        pictures=[
            Picture("held out", split["png"]),
            *(
                Picture(
                    f"{encoder_label(row['encoder'])}, "
                    f"{at(quality, place_of(row))[0]['ms_ssim']:.3f}",
                    row["png"],
                )
                for row in rows
            ),
        ],
        is_wide=True,
    )


def _pictured(record: Record) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys(place_of(row) for row in record["pictures"]))


def _output_sections(record: Record, place: tuple[str, str, int]) -> Iterator[Section]:
    """A grid an optimisation time; students that look like their teacher are left out, by name."""
    for time in record["settings"]["merge_times"]:
        rows = at(record["pictures"], place, merge_time=time)
        spread = _pixel_spread(record, place)
        errors = {
            row["plan"]: row["paired_rms"] / spread
            for row in at(record["tables"]["pixels"], place, merge_time=time)
        }
        best, second = (row["plan"] for row in pixel_contest(record, place, time))
        yield Section(
            f"Outputs, {encoder_label(place[1])}, {place[0]}, s = {time:g}",
            "Each column is decoded from the same noise in the latents. Grey levels of a "
            "difference are its size times the factor beside it, so that the brightest are white; "
            "factors differ between plans. "
            f"Of the four, {best} errs least in pixels, then {second}. Error of a pixel over its "
            "standard deviation: "
            + ", ".join(f"{plan} {number(value)}" for plan, value in errors.items())
            + ".",
            pictures=[
                Picture(_picture_name(row), row["png"]) for row in rows if _is_shown(row, errors)
            ],
            items=[_left_out(rows, errors)],
            is_wide=True,
        )


_VISIBLE = 0.002  # of a pixel's deviation; half a grey level of 8 bits


def _is_shown(row: Row, errors: Mapping[str, float]) -> bool:
    """Whether a picture shows anything that others do not."""
    is_student = row["factor"] is None and row["plan"] != _TEACHER
    return not is_student or errors[row["plan"]] > _VISIBLE


def _left_out(rows: Sequence[Row], errors: Mapping[str, float]) -> str:
    """Which students are not shown, and what they look like."""
    plans = [row["plan"] for row in rows if not _is_shown(row, errors)]
    if not plans:
        return "Every student is shown."
    return (
        f"Left out: {', '.join(plans)}. Their outputs differ from the teacher's, which are shown, "
        f"by less than {percent(_VISIBLE)} of a pixel's standard deviation, and look equal."
    )


def _picture_name(row: Row) -> str:
    return (
        row["plan"] if row["factor"] is None else f"{row['plan']}: error × {number(row['factor'])}"
    )


def _pixel_spread(record: Record, place: tuple[str, str, int]) -> float:
    return float(at(record["spreads"], place)[0]["pixel_rms"])


def _cost_section(record: Record) -> Section:
    cost = record["cost"]
    return Section(
        f"{cost['images']:,.0f} images at 64 × 64",
        f"Estimated from the rate of the published network, {cost['num_parameters']:,} parameters, "
        "on a few batches, on the processor of the computer that ran the study. Encoding and "
        "training read images from disk, so that memory does not grow with their number; only the "
        "covariance needs all latents at once.",
        items=(
            f"reading image files, whenever the study is started: {cost['read_seconds'] / 60:.0f} "
            "CPU minutes",
            f"encoding: {cost['encode_seconds'] / 60:.0f} CPU minutes",
            f"an epoch of training: {cost['epoch_seconds'] / 60:.0f} CPU minutes",
            f"images on disk, as they are read in training: {cost['images_bytes'] / _GIB:.1f} GiB",
            f"latents on disk: {cost['latents_bytes'] / _MIB:.0f} MiB, and about six times that in "
            "memory for their covariance and its resamples",
        ),
    )


def _neural_section(found: Row) -> Section:
    return Section(
        "Networks on latents",
        f"A teacher trained on the latents of {encoder_label(found['encoder'])}, "
        f"{found['source']}, T = {found['steps']}, distilled by every plan with "
        f"{found['iterations']} iterations a merge, under denoiser copy. Spearman's ρ "
        f"{found['spearman']:.2f}.",
        table=make_table(
            "Root mean squares of student minus teacher, from equal noise",
            ("plan", "merges", "predicted", "measured", "interval"),
            [
                (
                    row["plan"],
                    str(row["merges"]),
                    number(row["predicted"]),
                    number(row["mean"]),
                    f"{number(row['low'])} to {number(row['high'])}",
                )
                for row in sorted(found["plans"], key=lambda row: float(row["mean"]))
            ],
            "Predictions presume linear students at s = 6.4: their order is meant, not their size.",
        ),
        is_wide=True,
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
