"""The options of a spec that let tokens see later ones in training, or make costs expectations."""

from __future__ import annotations

from collections.abc import Iterator

from composer.language.schema.spec import Spec
from composer.language.schema.steps import all_stages


def not_causal(spec: Spec) -> Iterator[str]:
    """Yield a line for each block and each option that is not causal in training, with the reason."""
    for name, block in spec.blocks.items():
        if why := block.not_causal():
            yield f"not causal in training: blocks.{name}, where {why}"
    for place, stage in all_stages(spec.stages).items():
        for key, option in stage.wiring().items():
            if why := option.not_causal():
                yield f"not causal in training: {place} ({key}), where {why}"


def expected_costs(spec: Spec) -> Iterator[str]:
    """Yield a line for each option that leaves costs to what a trained model decides."""
    for place, stage in all_stages(spec.stages).items():
        for key, option in stage.wiring().items():
            if why := option.expected_costs():
                yield f"costs are expected ones: {place} ({key}), where {why}"
