"""Print the peak of training memory as it is predicted and measured, as a Markdown table.

`python docs/memory.py` counts live storages under fake tensors on a CPU; `--cuda` asks a GPU's allocator.
Specs are shipped ones and some of their kind, cast to bf16 as a whole, in the second step of AdamW.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from peak import on_cuda, varied

from composer.costs.base.precision import BF16
from composer.costs.base.units import bytes_text
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import mark_recompute, recomputable
from composer.language.schema.spec import Spec
from composer.testing.memory import measured


def row(spec: Spec, batch: int, again: bool, cuda: bool) -> tuple[Memory, int]:
    """Return the predicted and the measured peak, with all operations recomputed that can be or with none."""
    graph, length = compile_graph(spec), spec.model.context
    chosen = sorted(recomputable(graph)) if again else []
    size = BF16._replace(device="cuda") if cuda else BF16
    memory = Memory(mark_recompute(graph, chosen), Batch(batch * length, length, size))
    return memory, (on_cuda if cuda else measured)(spec, batch, recompute=chosen)


def table(cuda: bool) -> Iterator[str]:
    """Yield the lines of the table, and what the errors spread over."""
    yield "| spec | tokens | recomputed | predicted | measured | error | activations | peak at |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |"
    errors = []
    for name, (spec, batch) in varied().items():
        for again in (False, True):
            memory, peak = row(spec, batch, again, cuda)
            errors.append(100 * (memory.total / peak - 1))
            share = 100 * memory.terms["activations"] / memory.total
            cells = [
                name,
                str(memory.tokens),
                "all" if again else "",
                bytes_text(memory.total),
                bytes_text(peak),
            ]
            yield f"| {' | '.join(cells)} | {errors[-1]:+.2f} % | {share:.0f} % | {memory.moment} |"
    spread = (
        f"{min(errors):+.2f} to {max(errors):+.2f} %, half within {statistics.median(map(abs, errors)):.2f} %"
    )
    yield f"\n{len(errors)} peaks: errors {spread}."


if __name__ == "__main__":
    for line in table("--cuda" in sys.argv[1:]):
        print(line, flush=True)
