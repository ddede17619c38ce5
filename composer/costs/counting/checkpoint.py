"""Sizes of a run's checkpoints: the weights file, to the byte, and the tensors needed to resume.

The weights file is safetensors (8 bytes of length, a JSON header padded to 8, the data), with the text of the
resolved spec as metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import itemgetter

from blocks.ir.graph import Graph
from blocks.ir.walk import graphs, own_weights, weights
from composer.costs.memory.update import optimizer_of, trained_weights, update_of
from composer.graph.compile import compile_graph
from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Spec

_ELEMENT = 4
_MOST_TENSORS = 50_000


@dataclass(frozen=True)
class CheckpointSize:
    """Bytes of checkpoints.

    Attributes:
        weights_file: the whole `.safetensors` file; None for more than 50,000 tensors.
        resume_tensors: in a `.ckpt`: weights, states, what the optimizer keeps, and averaged weights.
    """

    weights_file: int | None
    resume_tensors: int


def checkpoint_size(spec: Spec, graph: Graph | None = None) -> CheckpointSize:
    """Return the sizes; all weights and states are fp32."""
    graph = graph or compile_graph(spec)
    counted = [
        (weight, used.copies)
        for body, place in graphs(graph)
        for _, weight, used in own_weights(body, place)
        if weight.saved
    ]
    data = sum(_ELEMENT * weight.size * copies for weight, copies in counted)
    option, update = optimizer_of(spec.train), update_of(graph, spec.train, _ELEMENT)
    scalars = sum(
        option.scalars(weight, inside) * copies for weight, inside, copies in trained_weights(graph)
    )
    kept = int(update.states + update.average) + _ELEMENT * scalars
    few = sum(copies for _, copies in counted) <= _MOST_TENSORS
    return CheckpointSize(8 + _header_length(spec, graph) + data if few else None, data + kept)


def _header_length(spec: Spec, graph: Graph) -> int:
    """Return the bytes of the padded header, in which tensors are in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"spec": resolved_yaml(spec)}}
    start = 0
    for name, weight, _ in sorted(weights(graph), key=itemgetter(0)):
        if not weight.saved:
            continue
        end = start + _ELEMENT * weight.size
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    return -(-len(text.encode()) // 8) * 8
