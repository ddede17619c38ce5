"""The registry of cost measures: one entry each, and those of the entry point group `composer.measures`."""

from __future__ import annotations

from collections.abc import Mapping

from blocks.base.entry_points import entry_points
from composer.measures.limits import Memory
from composer.measures.measure import Costs, Measure

GROUP = "composer.measures"


def _by_block(attribute: str, costs: Costs) -> dict[str, float]:
    return {name: getattr(share, attribute) for name, share in costs.by_block.items()}


def _train_flops(costs: Costs) -> dict[str, float]:
    sizes = {name: share.forward + share.backward for name, share in costs.by_block.items()}
    scale = (costs.train_flops or 0) / sum(sizes.values())
    return {name: size * scale for name, size in sizes.items()}


SHIPPED = (
    Measure(
        "params",
        "count",
        "Parameters, all of them.",
        lambda costs: costs.params,
        label="parameters",
        aliases="parameters num_params n_params parameter_count max_params size",
        tolerance=1,
        main=True,
        parts=lambda costs: _by_block("params", costs),
    ),
    Measure(
        "active_params",
        "count",
        "Parameters used by one token.",
        lambda costs: costs.active_params,
        label="active per token",
        aliases="active_parameters activated_params",
        tolerance=1,
        parts=lambda costs: _by_block("active_params", costs),
    ),
    Measure(
        "flops_per_token",
        "count",
        "FLOPs of the forward pass per token, at the full context.",
        lambda costs: costs.flops_per_token.forward,
        label="FLOPs per token",
        short="FLOPs",
        aliases="flops flops_token forward_flops flop",
        tolerance=2,
        main=True,
        parts=lambda costs: _by_block("forward", costs),
        details=lambda costs: {"backward": costs.flops_per_token.backward},
        at="evaluation",
    ),
    Measure(
        "train_flops",
        "count",
        "FLOPs of forward and backward passes over all training tokens.",
        lambda costs: costs.train_flops,
        label="training FLOPs",
        short="training FLOPs",
        aliases="total_flops training_flops compute",
        tolerance=2,
        training="needed",
        parts=_train_flops,
        at="mean",
    ),
    Measure(
        "train_memory",
        "bytes",
        "Peak memory of training one micro-batch; operations are recomputed to stay below it.",
        lambda costs: costs.train_memory.total,
        label="training memory",
        short="memory",
        aliases="memory vram gpu_memory max_memory peak_memory",
        tolerance=5,
        main=True,
        training="used",
        cap=Memory,
        parts=lambda costs: costs.train_memory.terms,
        details=lambda costs: costs.train_memory.terms,
        mitigation="all that helps is recomputed",
        at="most",
    ),
    Measure(
        "cache_bytes_per_token",
        "bytes",
        "Size of the KV cache per token at generation.",
        lambda costs: costs.cache_bytes_per_token,
        label="cache per token",
        short="cache",
        aliases="kv_cache kv_cache_bytes cache kv_cache_size",
        tolerance=1,
        parts=lambda costs: {"what generation keeps": costs.cache_bytes_per_token},
        at="evaluation",
    ),
    Measure(
        "depth_cache_bytes",
        "bytes",
        "Size of the depth KV cache per token while its steps run.",
        lambda costs: costs.depth_cache_bytes,
        label="depth slots",
        tolerance=1,
        parts=lambda costs: {"keys and values": costs.depth_cache_bytes},
        at="most",
    ),
    Measure(
        "step_time",
        "seconds",
        "Estimated time of an optimizer step on a device: {device: h100, hard: 120ms}; limits are optional.",
        lambda costs: costs.step_time,
        label="step time",
        aliases="time latency speed throughput step_seconds",
        on_device=True,
        parts=lambda costs: {"the step": costs.step_time or 0},
        at="mean",
    ),
)


def _registered() -> dict[str, Measure]:
    measures = {measure.name: measure for measure in SHIPPED}
    for point in entry_points(GROUP):
        measure = point.load()
        if not isinstance(measure, Measure):
            raise ValueError(f"entry point {point.value} ({GROUP}): expected a Measure, got {measure!r}")
        if measures.setdefault(measure.name, measure) is not measure:
            raise ValueError(f"entry point {point.value} ({GROUP}): the measure {measure.name} is taken")
    return measures


MEASURES: Mapping[str, Measure] = _registered()
"""Every measure by its name: what is known of a spec before it is trained."""

MATCHABLE: Mapping[str, float] = {
    name: measure.tolerance for name, measure in MEASURES.items() if measure.tolerance is not None
}
"""The measures that sizes can be solved for, each with its default tolerance in percent."""

MAIN = tuple(name for name, measure in MEASURES.items() if measure.main)
"""The measures that specs are matched and compared by unless others are named."""
