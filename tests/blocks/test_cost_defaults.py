from dataclasses import dataclass

from blocks.base.builder import Builder
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Weight
from blocks.ir.tensor_type import TensorType
from composer.graph.passes.infer_types import infer_types


@dataclass(frozen=True)
class Plain(Operation):
    """Says what it means and how it runs, and nothing of costs."""

    width: int

    kernels = (Kernel("plain", "nowhere:plain", "an example"),)

    def types(self, inputs):
        return (TensorType((self.width,)),)

    def weight_shapes(self):
        return ((3 * self.width, 8), (self.width,))


def test_an_operation_that_says_nothing_of_costs_counts_as_a_product_that_keeps_all_it_reads_and_makes():
    builder, start = Builder(8), Init("constant")
    x, y = (builder.input(name, TensorType((8,))) for name in "xy")
    weights = [Weight("w", (12, 8), start), Weight("b", (4,), start)]
    made = builder.op("plain", Plain(4), x, y, weights=weights)
    node, at = infer_types(builder.graph).node(made.node), CostContext(16)
    # a vector is added or multiplied element by element
    assert node.op.flops(at) == 2 * 12 * 8
    assert node.op.backward_flops(at) == 4 * 12 * 8
    assert node.saved(at) == SavedTensors(inputs=(0, 1), outputs=(0,))
    assert node.op.workspace(at, IOBytes(64, 16, 0)) == WorkspaceBytes(16, 64, 64)
