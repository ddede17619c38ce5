"""The size of what a run leaves: the file of its weights, to the byte, and the tensors a resumed run needs.

The weights file is safetensors (8 bytes of length, a JSON header padded to 8, the data), with the text of the
resolved spec as metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from blocks.ir.graph import Graph
from blocks.ir.walk import weights
from composer.graph.compile import compile_graph
from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Spec

_ELEMENT = 4


@dataclass(frozen=True)
class CheckpointSize:
    """Bytes of checkpoints.

    Attributes:
        weights_file: the whole `.safetensors` file.
        resume_tensors: in a `.ckpt`: weights, states, AdamW's two moments and its step for each weight.
    """

    weights_file: int
    resume_tensors: int


def checkpoint_size(spec: Spec, graph: Graph | None = None) -> CheckpointSize:
    """Return the sizes; all weights and states are fp32."""
    held = [each for each in weights(graph or compile_graph(spec)) if each[1].saved]
    sizes = {name: weight.size for name, weight, _ in held}
    shapes = {name: list(weight.shape) for name, weight, _ in held}
    trained = [weight.size for _, weight, _ in held if weight.trained]
    header: dict[str, object] = {"__metadata__": {"spec": resolved_yaml(spec)}}
    at = 0
    # of one element size, tensors stand in the order of their names
    for name in sorted(sizes):
        end = at + _ELEMENT * sizes[name]
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    length = -(-len(text.encode()) // 8) * 8
    moments = sum(2 * _ELEMENT * size + _ELEMENT for size in trained)
    return CheckpointSize(8 + length + at, at + moments)
