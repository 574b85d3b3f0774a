"""The page of the study `celeba`: encoders, their latents, and which plan is best there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from opmerge.page.charts import DASHED, LOOKS, Axis, Level, Series, chart, intervals
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import percent
from opmerge.page.study import Page, frame, heads, table
from opmerge_studies.celeba.page_networks import (
    PAPERS,
    network_claims,
    network_contests,
    network_errors,
    network_sections,
    planned_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Frames = Mapping[str, "pd.DataFrame"]

_PLACE = ["source", "encoder", "seed"]
_LABELS = {"ms-ssim-vae": "MS-SSIM VAE", "mse-vae": "β-VAE", "pca": "PCA"}
_PLANNED = "certified"
_PLANS = (_PLANNED, "boot", "vanilla", "temporal:8", "uniform:4", "progressive", "consistency")
_OFF = 10.0  # times the certified plan: left to the table
_SMALLEST = 1e-4  # eigenvalue that is drawn
_VISIBLE = 0.002  # of a pixel's deviation; half a grey level of 8 bits

_ENCODER_COLUMNS = heads(
    *("encoder=called", "source", "seed", "latents=dimensions", "parameters=num_parameters:,.0f"),
    *("images=images:,", "held out=num_images:,", "MS-SSIM=ms_ssim:.4f", "PCA's=pca_ms_ssim:.4f"),
    *("ahead by=ahead:+.4f", "squared error=mse", "PCA's squared error=pca_mse"),
    "CPU seconds=cpu_seconds:.0f",
)
_ENCODER_NOTE = (
    "PCA has as many latents; it gives images back with the least squared error of all linear "
    "maps, on the images that it was fitted to."
)
_WINNER_COLUMNS = heads(
    *("encoding", "form", "rule=merge_rule", "s=merge_time:g", "λ ≤ 1=share_small:%"),
    *("largest λ=largest", "least=winner", "second", "second / least=ratio:.3f"),
    *("95 %=ratio_low…ratio_high:.3f", "wins=wins:%", "sums=continuum:.3f", "gain=gain:.3f"),
)
_WINNER_NOTE = (
    "Second / least: with its 95 % interval over images; wins: share of resamples with the same "
    "winner. Sums: √(Σ(1 − √λ)² / Σ(√λ ln √λ)²), above 1 where BOOT should err less than vanilla "
    "under operator copy. Gain: best named strategy over certified plan, which tables/winners.csv "
    "tells in words."
)
_ERROR_COLUMNS = heads(
    *("encoding", "s=merge_time:g", "plan", "W2, diagonal=w2_diagonal", "W2, full=w2"),
    *("its 95 %=low…high", "paired, pixels=paired_rms", "95 %=paired_low…paired_high"),
    "sliced W2, pixels=sliced_w2",
)
_ERROR_NOTE = (
    f"The {_PLANNED} plan of each form is its own. W2 is of a whole latent, other errors of a "
    "pixel. Sliced W2 is over 128 random directions, and can exceed the paired error by that."
)
_NETWORK_COLUMNS = heads("plan", "merges", "predicted", "measured=mean", "95 %=low…high")
_NETWORK_NOTE = (
    "Predictions presume linear students at s = 6.4: their order is meant, not their size."
)


def page(record: Record) -> Page:
    """Numbers, claims and sections of a record."""
    rows = _frames(record)
    time = record["settings"]["merge_times"][-1]
    winners = rows["winners"].query("merge_time == @time").sort_values("form", kind="stable")
    paper = winners[winners.merge_rule == "operator-copy"]
    diagonal, full = (paper[paper.form == form] for form in ("diagonal", "full"))
    denoised = winners[winners.merge_rule == "denoiser-copy"]
    decoded = full.merge(rows["contests"].query("merge_time == @time"), on=_PLACE)
    plans = rows["plans"].query("merge_rule == 'operator-copy' and merge_time == @time")
    errors = plans.pivot(index=[*_PLACE, "form"], columns="plan", values="w2")
    sums = paper.set_index([*_PLACE, "form"]).continuum
    encoders = rows["encoders"]
    claims = {
        "most-small": count(full.share_small > 0.5),
        "boot-least-diagonal": count(diagonal.winner == "boot"),
        "boot-least-full": count(full.winner == "boot"),
        "boot-least-decoded": count(decoded.least == "boot"),
        "sums-tell": count(paper.winner == np.where(paper.continuum > 1, "boot", "vanilla")),
        "latents-tell-pixels": count(decoded.least == decoded.winner),
        "boot-least-denoiser-copy": count(denoised.winner == "boot"),
        "ahead-of-pca": count(encoders.ahead.dropna() > 0),
    }
    of_networks: dict[str, Any] = dict.fromkeys(("contests", "planned"), pd.DataFrame())
    of_networks |= {"networks": None, "neural": None}  # as in records of others
    if record.get("networks"):
        students = network_errors(record)
        contests = network_contests(students)
        claims |= network_claims(students, contests)
        of_networks |= {"contests": contests, "planned": planned_rows(students)}
    shapes = encoders.groupby("source").shape.first()
    splits = pd.DataFrame(record["splits"])
    splits["shape"] = splits.source.map(shapes).map(lambda shape: shape[shape[0] == 1 :])
    values = {
        **of_networks,
        **record,
        "claims": claims,
        "time": time,
        "splits": splits,
        "paper": paper,
        "full": full,
        "decoded": decoded,
        "quality": encoders.groupby(["source", "called"], sort=False).ms_ssim,
        "off": errors.vanilla / errors.boot / sums,
    }
    return Page(values, claims, _sections(record, rows, time))


def _frames(record: Record) -> dict[str, pd.DataFrame]:
    """The tables, each row with the names of its encoder and encoding; and who wins decoded."""
    names = frame(record, "encoders")[_PLACE]
    called = names.encoder.replace(_LABELS)
    several = names.groupby(["source", "encoder"]).seed.transform("size") > 1
    names = names.assign(
        called=called,
        encoding=called
        + (", " + names.source if names.source.nunique() > 1 else "")
        + (", seed " + names.seed.astype(str)).where(several, ""),
    )
    shown = {key: record[key] for key in ("pictures", "reconstructions") if record[key]}
    tables = {**record["tables"], **shown}
    tables.pop("networks", None)  # which are told by the seed of their own training
    rows = {key: pd.DataFrame(tables[key]).merge(names, on=_PLACE, how="left") for key in tables}
    encoders = rows["encoders"]
    ahead = (encoders.ms_ssim - encoders.pca_ms_ssim.astype(float)).where(encoders.encoder != "pca")
    dimensions = encoders.num_latents.astype(str) + " " + encoders.latents
    spectra = rows["spectra"].drop(columns=["called", "encoding"])
    pixels = rows["pixels"].merge(pd.DataFrame(record["spreads"]), on=_PLACE)
    pixels = pixels.assign(relative=pixels.paired_rms / pixels.pixel_rms)
    ranked = pixels[pixels.plan.isin(PAPERS)].sort_values("paired_rms", kind="stable")
    contests = ranked.groupby([*_PLACE, "merge_time"], sort=False)
    return {
        **rows,
        "encoders": encoders.assign(ahead=ahead, dimensions=dimensions),
        "winners": rows["winners"].merge(spectra, on=[*_PLACE, "form"], how="left"),
        "pixels": pixels,
        "contests": contests.agg(
            least=("plan", "first"),
            behind=("plan", lambda plans: plans.iloc[1]),
            times=("paired_rms", lambda errors: errors.iloc[1] / errors.iloc[0]),
        ).reset_index(),
    }


def _sections(record: Record, rows: Frames, time: float) -> Iterator[Section]:
    encoders, pixels, seed = rows["encoders"], rows["pixels"], record["settings"]["seeds"][0]
    for split in record["splits"] if "reconstructions" in rows else ():
        backs = rows["reconstructions"].merge(encoders[[*_PLACE, "ms_ssim"]], on=_PLACE)
        own = backs[backs.source == split["source"]]
        names = own.called + own.ms_ssim.map(", {:.3f}".format)
        yield Section(
            f"Reconstructions of {split['source']}",
            f"Of {split['held_out']} images held out ({split['split']}); first seed.",
            pictures=[("held out", split["png"]), *zip(names, own.png, strict=True)],
            is_wide=True,
        )
    made = table(
        "Held-out reconstructions", encoders, _ENCODER_COLUMNS, _ENCODER_NOTE, is_open=True
    )
    caption = "Means over held-out images, of what decoding the mean latents gives back."
    yield Section("Encoders", caption, table=made, is_wide=True)
    for source in encoders.source.unique():
        yield from _source_sections(rows, source, seed, time)
    made = table(
        "Strategies in latents", rows["winners"], _WINNER_COLUMNS, _WINNER_NOTE, is_open=True
    )
    caption = "Of the paper's four strategies, by the linear theory."
    yield Section("Who errs least", caption, table=made, is_wide=True)
    keys = [*_PLACE, "merge_time", "plan"]
    latents = rows["plans"].query("merge_rule == 'operator-copy'").set_index("form")
    errors = pixels.merge(latents.loc[["full"], [*keys, "w2", "low", "high"]], on=keys).merge(
        latents.loc[["diagonal"], [*keys, "w2"]], on=keys, suffixes=("", "_diagonal")
    )
    made = table("Errors under operator copy", errors, _ERROR_COLUMNS, _ERROR_NOTE)
    caption = "W2 in latents by the linear theory; paired error and sliced W2 of a pixel, decoded."
    yield Section("All errors", caption, table=made, is_wide=True)
    if "pictures" in rows:
        pictures = rows["pictures"].merge(pixels[[*keys, "relative"]], on=keys, how="left")
        pictures = pictures.merge(rows["contests"], on=[*_PLACE, "merge_time"])
        for _, grid in pictures.groupby([*_PLACE, "merge_time"], sort=False):
            yield _grid_section(grid)
    if record.get("networks"):
        yield from network_sections(record, network_errors(record))
    if record.get("neural"):  # of records of before, whose merges were trained alike
        networks = pd.DataFrame(record["neural"]["plans"]).sort_values("mean")
        caption = "Root mean squares of student minus teacher, from equal noise"
        made = table(caption, networks, _NETWORK_COLUMNS, _NETWORK_NOTE)
        caption = "A teacher trained on latents, distilled by every plan under denoiser copy."
        yield Section("Networks on latents", caption, table=made, is_wide=True)


def _source_sections(rows: Frames, source: str, seed: int, time: float) -> Iterator[Section]:
    """The spectrum of a source's latents, and the errors of plans there and decoded."""
    here = "source == @source and seed == @seed"
    then = f"{here} and merge_time == @time"
    eigenvalues = rows["eigenvalues"].query(here)
    latents = rows["plans"].query(f"{then} and merge_rule == 'operator-copy'")
    pixels = rows["pixels"].query(then).assign(form="full")
    largest = eigenvalues.groupby("form").eigenvalue.max()
    yield chart(
        f"Latents of {source}",
        "Solid: eigenvalues of the covariance, with 95 % intervals over images; dashed: "
        "variances of single latents, which the paper takes for eigenvalues. Line: λ = 1.",
        list(_spectrum_series(eigenvalues)),
        Axis("direction or latent, by size", (1, eigenvalues["rank"].max() * 1.1)),
        Axis("variance λ", (_SMALLEST, 2 * largest.max())),
        f"The largest variance of a latent is {largest.diagonal:.3g}, the largest eigenvalue "
        f"{largest.full:.3g}",
        levels=[Level(y=1.0)],
        height=3.2,
    )
    least = _least_named(latents, "w2")
    yield draw_section(
        f"Error in latents of {source}",
        f"By the linear theory, operator copy, s = {time:g}. Filled: full covariance; hollow: "
        "diagonal. Bars: 95 % intervals over images. Student and teacher are positive multiples of "
        "the same noise in every direction, so this is their paired error too. Plans that err ten "
        "times as much and more are in the table.",
        error_figure(
            latents,
            ("w2", "low", "high"),
            f"Least errs, of the named: {least.diagonal} by the diagonal, {least.full} by the full "
            "covariance",
            "W2 in latents, certified plan = 1",
        ),
    )
    yield draw_section(
        f"Error in pixels of {source}",
        "Root mean square of student minus teacher, decoded from equal noise, full covariance, "
        f"s = {time:g}. Bars: 95 % intervals over samples. Plans that err ten times as much and "
        "more are in the table.",
        error_figure(
            pixels,
            ("paired_rms", "paired_low", "paired_high"),
            f"Least errs, of the named and decoded: {_least_named(pixels, 'paired_rms').full}",
            "error in pixels, certified plan = 1",
        ),
    )


def _spectrum_series(rows: pd.DataFrame) -> Iterator[Series]:
    drawn = rows.assign(**rows[["eigenvalue", "low", "high"]].clip(lower=_SMALLEST / 10))
    for (called, both), look in zip(drawn.groupby("called", sort=False), LOOKS, strict=False):
        line = {"color": look["color"]}
        full, diagonal = (both[both.form == form] for form in ("full", "diagonal"))
        ends = full.low, full.high
        yield Series(str(called), full["rank"], full.eigenvalue, line, *ends, band=True)
        yield Series("", diagonal["rank"], diagonal.eigenvalue, {**line, "linestyle": DASHED})


def _least_named(rows: pd.DataFrame, value: str) -> pd.Series[str]:
    """The named strategies that err least, of any encoder, by form."""
    named = rows[rows.plan != _PLANNED]
    least = named.loc[named.groupby(["form", "encoder"], sort=False)[value].idxmin()]
    return least.groupby("form").plan.agg(lambda plans: " or ".join(plans.unique()))


def error_figure(
    rows: pd.DataFrame, columns: tuple[str, str, str], title: str, words: str
) -> Figure:
    """Errors of plans as multiples of the certified one's, by encoder and form.

    ``rows`` hold one a plan, encoder and form; ``columns`` are the error and the ends of its
    interval, ``words`` what the error is.
    """
    value, low, high = columns
    units = rows[rows.plan == _PLANNED].set_index(["called", "form"])[value].rename("unit")
    ratios = rows.join(units, on=["called", "form"])
    ratios[[*columns]] = ratios[[*columns]].div(ratios.unit, axis=0)
    smallest = ratios.groupby("plan")[value].min()
    plans = [plan for plan in _PLANS if smallest[plan] < _OFF]
    shown, series = ratios[ratios.plan.isin(plans)], []
    for (called, both), look in zip(shown.groupby("called", sort=False), LOOKS, strict=False):
        for form, own in both.groupby("form"):
            fill = {} if form == "full" else {"markerfacecolor": "none"}
            label, places = str(called) if form == "full" else "", own.plan.map(plans.index)
            series.append(Series(label, own[value], places, {**look, **fill}, own[low], own[high]))
    return intervals(series, plans, Axis(words, margin=1.2), title, line=0.25 + 0.07 * len(series))


def _grid_section(grid: pd.DataFrame) -> Section:
    """Outputs of an encoding; students that look like their teacher are left out, by name."""
    place, is_map = grid.iloc[0], grid.factor.notna()
    is_student = ~is_map & grid.relative.notna()
    is_hidden = is_student & (grid.relative <= _VISIBLE)
    names = grid.plan + grid.factor.map(": error × {:.3g}".format).where(is_map, "")
    errors = grid.plan[is_student] + grid.relative[is_student].map(" {:.3g}".format)
    return Section(
        f"Outputs, {place.called}, {place.source}, s = {place.merge_time:g}",
        "Each column is decoded from the same noise in the latents. Grey levels of a difference "
        "are its size times the factor beside it, so that the brightest are white; factors differ "
        f"between plans. Of the four, {place.least} errs least in pixels, then "
        f"{place.behind}. Error of a pixel over its standard deviation: {', '.join(errors)}. "
        "Students whose outputs differ from the teacher's by less than "
        f"{percent(_VISIBLE)} of that look equal and are left out: "
        f"{', '.join(grid.plan[is_hidden]) or '–'}.",
        pictures=[*zip(names[~is_hidden], grid.png[~is_hidden], strict=True)],
        is_wide=True,
    )
