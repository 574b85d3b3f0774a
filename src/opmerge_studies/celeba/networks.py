"""Networks on latents: one teacher, and students of equal total cost, measured and decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from opmerge.data import open_source
from opmerge_studies.budgets import BudgetsSettings, cell_row
from opmerge_studies.budgets.contenders import contenders
from opmerge_studies.budgets.execution import Execution
from opmerge_studies.celeba import CelebaSettings
from opmerge_studies.celeba.encodings import Encoding
from opmerge_studies.celeba.plans import STRATEGIES
from opmerge_studies.shared.decoding import NUM_SHOWN
from opmerge_studies.shared.networks import picture


def distil_on_latents(settings: CelebaSettings, encoding: Encoding) -> dict[str, Any]:
    """Every plan's student of a teacher of an encoding's latents, each of the same total cost.

    Strategies are trained with the best split of the budget over their merges under the law, and
    with as many iterations for each; the planner's plan beside them.

    Returns:
        ``table``, a row a plan, budget and seed of the training; ``networks``, what they are; and
        ``pictures`` of the first seed, the teacher's first.
    """
    asked = BudgetsSettings(
        source=str(encoding.path.absolute()),
        vae=encoding.saved,
        teacher=settings.teacher,
        steps=settings.neural_steps,
        student_steps=(1,),
        budgets=settings.budgets,
        plans=STRATEGIES,
        splits=("law", "even"),
        seeds=settings.seeds,
        num_samples=settings.num_samples,
        with_run=False,
    )
    runner = replace(encoding.runner, folder=encoding.runner.folder / "networks")
    execution = Execution(asked, open_source(asked.source), runner)
    field = contenders(asked, 1, execution)
    trained = [
        (contender, seed, cell)
        for contender, of_seeds in zip(field, execution.train(field), strict=True)
        for seed, cell in zip(asked.seeds, of_seeds, strict=True)
    ]
    place = {key: encoding.place[key] for key in ("source", "encoder")}
    pictures = [
        {"budget": contender.budget, "plan": contender.label, "png": cell["png"]}
        for contender, seed, cell in trained
        if seed == asked.seeds[0]
    ]
    assert execution.decoded is not None, "with an autoencoder"
    shown = picture(execution.decoded.images[:NUM_SHOWN])
    return {
        "table": [{**place, **cell_row(*each), **each[2]["pixels"]} for each in trained],
        "networks": {
            **place,
            "steps": asked.steps,
            "output_spread": execution.knowledge.table.output_spread,
            **{key: execution.description()[key] for key in ("network", "parameters")},
        },
        "pictures": [{"budget": 0.0, "plan": "teacher", "png": shown}, *pictures],
    }
