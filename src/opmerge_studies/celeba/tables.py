"""Tables of the study `celeba`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opmerge.page.layout import Table, make_table
from opmerge.page.sentences import number, percent
from opmerge_studies.celeba.numbers import (
    FORMS,
    PAPERS_RULE,
    PLANNED,
    at,
    encoder_label,
    encoding_label,
    encodings,
    place_of,
)

__all__ = ["encoder_table", "error_table", "winner_table"]

Record = Mapping[str, Any]

_ENCODER_COLUMNS = (
    "encoder",
    "source",
    "seed",
    "latents",
    "parameters",
    "images",
    "MS-SSIM",
    "PCA's",
    "ahead by",
    "squared error",
    "PCA's",
    "CPU seconds",
)
_WINNER_COLUMNS = (
    "encoding",
    "form",
    "rule",
    "s",
    "λ ≤ 1",
    "largest λ",
    "least, second",
    "second / least",
    "wins",
    "sums",
    "gain",
)
_ERROR_COLUMNS = (
    "encoding",
    "s",
    "plan",
    "W2, diagonal",
    "W2, full",
    "interval",
    "paired, pixels",
    "interval",
    "sliced W2, pixels",
)


def encoder_table(record: Record) -> Table:
    """Held-out quality of every encoder, beside PCA."""
    table = make_table(
        "Held-out reconstructions",
        _ENCODER_COLUMNS,
        [
            (
                encoder_label(row["encoder"]),
                row["source"],
                str(row["seed"]),
                f"{row['num_latents']} {row['latents']}",
                _or_dash(row["num_parameters"], ","),
                f"{row['images']:,}",
                f"{row['ms_ssim']:.4f}",
                _or_dash(row["pca_ms_ssim"], ".4f"),
                _or_dash(_ahead(row), "+.4f"),
                number(row["mse"]),
                _or_dash(row["pca_mse"], ".3g"),
                f"{row['cpu_seconds']:.0f}",
            )
            for row in record["tables"]["encoders"]
        ],
        "PCA has as many latents; it gives images back with the least squared error of all linear "
        "maps, on the images that it was fitted to.",
    )
    return replace(table, is_open=True)


def winner_table(record: Record) -> Table:
    """Who errs least of the four, in every setting; open."""
    spectra = record["tables"]["spectra"]
    rows = []
    for row in record["tables"]["winners"]:
        spectrum = at(spectra, place_of(row), form=row["form"])[0]
        rows.append(
            (
                encoding_label(place_of(row), record),
                row["form"],
                row["merge_rule"].removesuffix("-copy"),
                f"{row['merge_time']:g}",
                percent(spectrum["share_small"]),
                number(spectrum["largest"]),
                f"{row['winner']}, {row['second']}",
                f"{row['ratio']:.3f} ({row['ratio_low']:.3f} … {row['ratio_high']:.3f})",
                percent(row["wins"]),
                f"{row['continuum']:.3f}",
                f"{row['gain']:.3f}",
            )
        )
    note = (
        "Second / least: with its 95 % interval over images; wins: share of resamples with the "
        "same winner. Sums: √(Σ(1 − √λ)² / Σ(√λ ln √λ)²), above 1 where BOOT should err less than "
        "vanilla under operator copy. Gain: best named strategy over certified plan, which "
        "tables/winners.csv tells in words."
    )
    table = make_table("Strategies in latents", _WINNER_COLUMNS, rows, note)
    return replace(table, is_open=True)


def error_table(record: Record) -> Table:
    """W2 in latents and errors in pixels of every plan."""
    rows = []
    for place in encodings(record):
        for pixels in at(record["tables"]["pixels"], place):
            wanted = {
                "plan": pixels["plan"],
                "merge_time": pixels["merge_time"],
                "merge_rule": PAPERS_RULE,
            }
            diagonal, full = (
                at(record["tables"]["plans"], place, form=form, **wanted)[0] for form in FORMS
            )
            rows.append(
                (
                    encoding_label(place, record),
                    f"{pixels['merge_time']:g}",
                    pixels["plan"],
                    number(diagonal["w2"]),
                    number(full["w2"]),
                    f"{number(full['low'])} to {number(full['high'])}",
                    number(pixels["paired_rms"]),
                    f"{number(pixels['paired_low'])} to {number(pixels['paired_high'])}",
                    number(pixels["sliced_w2"]),
                )
            )
    note = (
        f"The {PLANNED} plan of each form is its own. W2 is of a whole latent, other errors of a "
        "pixel. Sliced W2 is over 128 random directions, and can exceed the paired error by that."
    )
    return make_table("Errors under operator copy", _ERROR_COLUMNS, rows, note)


def _ahead(row: Mapping[str, Any]) -> float | None:
    """MS-SSIM above that of PCA with as many latents, of what is not PCA itself."""
    if row["encoder"] == "pca" or row["pca_ms_ssim"] is None:
        return None
    return float(row["ms_ssim"] - row["pca_ms_ssim"])


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
