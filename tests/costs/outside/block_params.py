"""A cost measure of somebody else's package."""

from composer.measures.measure import Costs, Measure


def _value(costs: Costs) -> int:
    return costs.params - costs.by_block["model"].params


block_params = Measure(
    "block_params",
    "count",
    "Parameters of all blocks.",
    _value,
    label="of blocks",
    short="blocks",
    aliases="layer_params",
    tolerance=3,
)
