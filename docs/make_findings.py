"""Write docs/findings.md, docs/paper_map.md and the table of studies from what was measured.

    python docs/make_findings.py            # writes (`make findings`)
    python docs/make_findings.py --check    # says which of them is not as the records say

``docs/records`` holds the record of every study, ``certificates.json`` what
``examples/certify_sources.py`` found; speed is in ``benchmarks/results.json``, the text teacher in
``benchmarks/text_teacher.json``, shared networks and adapters in ``benchmarks/sharing.json``. Prose
is in ``docs/templates``. No figure is drawn: a study's finding and claims are told without.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from opmerge.cli.studies import load_study, study_names
from opmerge.forecast import LAW_PRIORS
from opmerge.page.study import FILTERS, Told
from opmerge_studies.budgets.page import standing

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.__main__ import table as speed_table  # noqa: E402 - they lie beside, not installed
from benchmarks.retold import retold  # noqa: E402

BEGIN, END = "<!-- findings -->", "<!-- /findings -->"

BUDGETS = {
    "digits": "budgets",
    "digits, seed 0": "budgets-more",
    "digits, seeds 1, 2": "budgets-more-seeds",
    "patches": "budgets-patches",
    "patches, seed 0": "budgets-patches-more",
    "patches, seeds 1, 2": "budgets-patches-more-seeds",
    "CIFAR-10, 8 × 8": "budgets-cifar10",
    "digits, a UNet": "budgets-unet",
    "digits, a UNet, seed 0": "budgets-unet-more",
    "digits, a UNet, seed 2": "budgets-unet-today",
    "digits, a UNet, seed 2, less": "budgets-unet-today-less",
    "digits, a UNet, seed 3": "budgets-unet-seed-3",
    "CIFAR-10, 8 × 8, a UNet": "budgets-cifar10-unet",
    "digits, a DiT": "budgets-digits-dit",
    "CelebA latents": "budgets-celeba",
    "CelebA latents, seeds 1, 2": "budgets-celeba-seeds",
    "CIFAR-10 latents": "budgets-cifar10-latents",
    "CIFAR-10, a DiT": "budgets-cifar10-dit",
    "CIFAR-10, 8 × 8, probes": "budgets-cifar10-probes",
    "CelebA latents, probes": "budgets-celeba-probes",
}
"""Records of the study `budgets`, by what the page calls them."""

PLANNED_IN_SQUARES = {"digits": "budgets-digits-squares", "patches": "budgets-patches-squares"}
"""Those of plans by a law that adds windows in squares, with vanilla alone beside them."""


@dataclass(frozen=True)
class Answered:
    """A study with what its record tells."""

    name: str
    question: str
    settings: Mapping[str, Any]
    tables: Mapping[str, Any]
    told: Told

    @property
    def by_cell(self) -> list[dict[str, Any]]:
        """Of the study `budgets`, by K and budget: lists over its seeds of what planner, best hand
        plan and vanilla left, and what was forecast of the planner's."""
        cells: dict[tuple[int, float], dict[str, Any]] = {}
        for row in self.tables["regret"]:
            key = row["student_steps"], row["budget"]
            cell = cells.setdefault(key, {"student_steps": key[0], "budget": key[1]})
            for name in ("best_hand", "best", "planned", "regret", "vanilla", "forecast"):
                cell.setdefault(name, []).append(row[name])
            cell.setdefault("percent", []).append(100 * row["regret"])
        return list(cells.values())

    @property
    def regrets(self) -> Any:
        """Of the study `budgets`: its rows of regret, each with how the planner's plan stands."""
        rows = pd.DataFrame(self.tables["regret"])
        return rows.assign(standing=standing(rows, self.budget_cells))

    @property
    def budget_cells(self) -> Any:
        """Of the study `budgets`: what was forecast and measured, a row for a plan and seed."""
        return pd.DataFrame(self.tables["cells"])

    @property
    def agreements(self) -> Any:
        """Of the study `budgets`: how forecasts agree, a row for each seed and K."""
        return pd.DataFrame(self.tables["agreement"]).query("student_steps != 'all'")

    @property
    def held(self) -> int:
        """Claims that hold."""
        return sum(claim.holds for claim in self.told.claims)


def answered(root: Path) -> dict[str, Answered]:
    """Every study whose record is kept, by name."""
    paths = {name: root / "docs" / "records" / f"{name}.json.gz" for name in study_names()}
    return {name: read_record(name, path) for name, path in paths.items() if path.exists()}


def read_record(name: str, path: Path) -> Answered:
    """What a record of a study tells."""
    study, record = load_study(name), json.loads(gzip.decompress(path.read_bytes()))
    told, tables = study.told(record), record.get("tables", {})
    return Answered(name, study.question, record["settings"], tables, told)


def documents(root: Path) -> dict[Path, str]:
    """The text of every generated document, by path."""
    studies = answered(root)
    claims = {
        f"{study.name}/{claim.key}": claim
        for study in studies.values()
        for claim in study.told.claims
    }
    environment = Environment(
        loader=FileSystemLoader(root / "docs" / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    records = root / "docs" / "records"
    budgets_of = {
        label: read_record("budgets", records / f"{name}.json.gz")
        for label, name in BUDGETS.items()
    }
    values = {
        "studies": studies,
        "budgets_of": budgets_of,
        "regrets": pd.concat([each.regrets for each in budgets_of.values()]),
        "budget_cells": pd.concat([each.budget_cells for each in budgets_of.values()]),
        "agreements": pd.concat([each.agreements for each in budgets_of.values()]),
        "in_squares": {
            data: read_record("budgets", records / f"{name}.json.gz")
            for data, name in PLANNED_IN_SQUARES.items()
        },
        "retold": retold().to_dict("records"),
        "onset": LAW_PRIORS["mlp-solved"].centre.onset,
        "faces": read_record("celeba", records / "celeba-faces.json.gz"),
        "face_beta": read_record("celeba", records / "celeba-faces-beta.json.gz"),
        "face_networks": read_record("celeba", records / "celeba-faces-networks.json.gz"),
        "verdict": lambda key: claims[key].verdict,
        "certificates": json.loads((records / "certificates.json").read_text()),
        "speed": speed_table(json.loads((root / "benchmarks" / "results.json").read_text())),
        "text_teacher": json.loads((root / "benchmarks" / "text_teacher.json").read_text()),
        "sharing": json.loads((root / "benchmarks" / "sharing.json").read_text()),
    }

    def render(name: str) -> str:
        return environment.get_template(name).render(values)

    studies_page = root / "docs" / "how_to" / "studies.md"
    before, _, rest = studies_page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        root / "docs" / "findings.md": render("findings.md.j2"),
        root / "docs" / "paper_map.md": render("paper_map.md.j2"),
        studies_page: f"{before}{BEGIN}\n{render('studies.md.j2')}{END}{after}",
    }


def main() -> int:
    """Write or check the documents; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if one is stale")
    check = parser.parse_args().check
    stale = []
    for path, text in documents(ROOT).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
