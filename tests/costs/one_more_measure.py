"""What is made of a measure that an entry point adds; run by test_measures.py."""

from __future__ import annotations

import contextlib
import io

from docs.generate import costs_table, field_table, measures_table

import composer
from composer.cli.main import main
from composer.costs.counting.compare import measures
from composer.costs.fitting.caps import check_caps
from composer.costs.matching.match import match
from composer.costs.tracing.traced_cost import Coster
from composer.language.description.json_schema import schema_text
from composer.language.description.show import document
from composer.language.load import load, read_tree
from composer.language.space import Space
from composer.settings.errors import SpecError
from search.objectives import Goals

TINY, OTHER = "specs/dreamer-tiny.yaml", "specs/recurrent-tiny.yaml"


def _refused(setting: str) -> str:
    try:
        check_caps(load(TINY, [setting]))
    except SpecError as error:
        return str(error)
    return "accepted"


def _printed(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main([*arguments])
    return out.getvalue()


def report() -> dict[str, object]:
    """Return what each part of the tool makes of the measure."""
    costs, wanted = composer.cost(TINY), Coster(["block_params"])
    whole = costs.measure("block_params")
    specs = [load(TINY, [f"blocks.expert.experts={n}"]) for n in (8, 12, 16)]
    objectives = ["search.objectives=[{minimize: block_params}, {maximize: accuracy}]"]
    search = Space(read_tree("specs/space.yaml", objectives)).search
    return {
        "exact": whole == costs.to_dict()["block_params"] == costs.params - costs.by_block["model"].params,
        "capped": _refused("caps.block_params=60k"),
        "kept": _refused(f"caps.block_params={{soft: 1, hard: {whole}}}"),
        "hint": _refused("caps.layer_params=1"),
        "traced": [wanted(document(spec))["block_params"] for spec in specs]
        == [composer.cost(spec).measure("block_params") for spec in specs],
        "objective": Goals(search.objectives).measured({"accuracy": 0.5}, {"block_params": 3}),
        "matched": [str(each.measure) for each in match(load(OTHER), load(TINY), ["blocks"]).residuals],
        "compared": [each.name for each in measures(costs, composer.cost(OTHER))],
        "row": _printed("cost", TINY),
        "picture": _printed("draw", TINY),
        "schema": schema_text().count('"block_params"'),
        "docs": measures_table("") + costs_table("") + field_table("composer.language.schema.caps:Caps"),
    }
