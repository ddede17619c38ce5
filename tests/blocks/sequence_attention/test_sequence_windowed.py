"""Windows by torch's flash attention: a stand-in for it, as torch documents it, where there is no GPU."""

from dataclasses import replace

import pytest
import torch
from cases import SEQ, tree
from hypothesis import given
from hypothesis import strategies as st
from models import close, compiled, gradients, tokens_for
from strategies import make
from torch._subclasses import FakeTensorMode

from blocks.ir.costs import CostContext
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.sequence_attention import check, windowed
from blocks.sequence_attention.operations import WindowAttend
from blocks.sequence_attention.reference import attend_plain, window_mask
from composer.costs.counting.count import count_graph
from composer.graph.compile import compile_graph
from composer.settings.errors import SpecError

GPU = Target("cuda", "bfloat16")
WIDE = {**SEQ, "head_dim": 8}
TREE = tree(
    {"near": {**WIDE, "window": 3}, "far": WIDE},
    {"recur": 2, "step": ["near", {"stack": 2, "step": ["near"]}, "far"]},
)


def flash(q, k, v, starts, key_starts, longest, longest_key, *, window_size, enable_gqa=False):
    """Each token of each sequence sees itself and `window_size[0]` tokens before; group by group."""
    before, after = window_size
    assert after == 0
    assert starts.dtype == torch.int32
    rows, group = [], q.shape[1] // k.shape[1]
    for start, end in zip(starts.tolist()[:-1], starts.tolist()[1:], strict=True):
        assert end - start == longest == longest_key
        for token in range(start, end):
            seen = slice(max(start, token - before), token + 1)
            keys, values = (each[seen].repeat_interleave(group, 1) for each in (k, v))
            weights = ((q[token] * keys).sum(-1) * q.shape[-1] ** -0.5).softmax(0)
            rows.append((weights[..., None] * values).sum(0))
    return torch.stack(rows)


@pytest.fixture
def flashes(monkeypatch):
    monkeypatch.setattr(windowed, "_attend", flash)


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.sampled_from([(2, 1), (3, 3), (4, 2)]))
def test_it_is_attention_under_the_mask(batch, length, window, heads):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, length, n, 4, generator=draw, dtype=torch.float64)
        for n in (heads[0], heads[1], heads[1])
    )
    wanted = attend_plain(q, k, v, window_mask(q[..., 0, 0], window))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windowed, "_attend", flash)
        got = windowed.attend_windowed(q, k, v, window)
    torch.testing.assert_close(got, wanted)


def test_torch_takes_the_call_and_keeps_what_is_said():
    operation, batch, length = WindowAttend(4, 2, 8, 3, masked=False), 3, 5
    kept = []
    with FakeTensorMode():
        leaves = [torch.empty(batch, length, n, 8, dtype=torch.half, requires_grad=True) for n in (4, 2, 2)]
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda each: kept.append(each) or each, lambda each: each
        )
        with hooks:
            out = windowed.attend_windowed(*leaves, window=3)
        assert out.shape == (batch, length, 4, 8)
        grads = torch.autograd.grad(out, leaves, torch.empty_like(out))
    assert [each.shape for each in grads] == [each.shape for each in leaves]
    saved = operation.saved(CostContext(length, compute_bytes=2))
    per_token = 2 * 8 * (4 + 2 + 2) + 2 * 8 * 4 + saved.extra
    starts, random_state = 2 * 4 * (batch + 1), 16  # of which costs know nothing
    assert sum(each.nbytes for each in kept) == batch * length * per_token + starts + random_state
    assert saved.once == 0


@pytest.mark.parametrize("sizes", [None, (3, 3, 40, 1), (4, 1, 128, 500)])
def test_its_self_test_holds(flashes, sizes):
    operation = sizes and WindowAttend(*sizes, masked=False)
    assert check.check_windowed(operation, Target()) == ""


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("sizes", [None, (3, 3, 40, 1), (4, 1, 128, 500)])
def test_its_self_test_holds_on_a_gpu(dtype, sizes):
    operation = sizes and WindowAttend(*sizes, masked=False)
    assert check.check_windowed(operation, Target("cuda", dtype)) == ""


@pytest.mark.parametrize("more", [-1, 1])
def test_its_self_test_finds_a_window_that_is_one_off(more, monkeypatch):
    def wrong(*given, window_size, **named):
        return flash(*given, window_size=(window_size[0] + more, 0), **named)

    monkeypatch.setattr(windowed, "_attend", wrong)
    assert check.check_windowed(None, Target()).startswith("output is off by 0.")


def used(graph):
    """The kernels of attention and masks, and what they are given."""
    return [
        (data.kernel.name, len(data.inputs))
        for body, _ in graphs(graph)
        for node, _, data in operations(body)
        if (data.choice and node.startswith("window")) or node.endswith("attend")
    ]


def test_no_mask_is_made_where_nothing_reads_it():
    spec = make(TREE)
    assert used(compile_graph(spec, GPU)) == [("flash_window", 3), ("sdpa_ordered", 3), ("flash_window", 3)]
    masked = [("window_mask", 1), ("sdpa_masked", 4), ("sdpa", 3), ("sdpa_masked", 4)]
    assert used(compile_graph(spec)) == masked
    assert [name for name, _ in used(compile_graph(spec, GPU, "reference"))] == [
        "window_mask",
        *["attend_plain"] * 3,
    ]


def test_a_mask_stays_for_whoever_reads_it():
    """Heads of 6 are none for flash attention."""
    blocks = {"near": {**WIDE, "window": 3}, "odd": {**SEQ, "window": 3}}
    graph = compile_graph(make(tree(blocks, {"recur": 2, "step": ["near", "odd"]})), GPU)
    assert used(graph) == [("window_mask", 1), ("flash_window", 3), ("sdpa_masked", 4)]


@pytest.mark.parametrize(
    ("block", "dtype", "why"),
    [
        (WIDE, "float32", "it has no float32"),
        (SEQ, "bfloat16", "head_dim is 6, not a multiple of 8 up to 256"),
    ],
)
def test_fused_names_what_a_window_lacks(block, dtype, why):
    spec = make(tree({"near": {**block, "window": 3}}, {"recur": 2, "step": ["near"]}))
    with pytest.raises(SpecError, match=f"flash_window on cuda in {dtype}(.|\n)*{why}"):
        compile_graph(spec, Target("cuda", dtype), "fused")
    compile_graph(make(TREE), GPU, "fused")


def test_costs_are_then_those_of_attention_without_a_mask():
    long = {**TREE, "model": {**TREE["model"], "context": 256}}
    spec, blind = make(long), make({**long, "blocks": {"near": WIDE, "far": WIDE}})
    costs, wanted = (count_graph(each, compile_graph(each, GPU)) for each in (spec, blind))
    assert costs.train_memory.total == wanted.train_memory.total
    assert costs.flops_per_token.forward < wanted.flops_per_token.forward
    masked = count_graph(spec, compile_graph(spec, Target("cuda", "bfloat16"), "reference"))
    assert masked.flops_per_token == costs.flops_per_token
    # the mask, and what each of six executions keeps of it as numbers
    assert masked.train_memory.total > costs.train_memory.total + 6 * 256 * 256


def test_a_model_runs_by_it_as_by_the_mask(flashes, monkeypatch):
    spec = make(TREE)
    wanted, tokens = compiled(spec), tokens_for(spec)
    first, *others = WindowAttend.kernels
    anywhere = replace(first, unfit=lambda operation, target: "", dtypes=(), check="")
    monkeypatch.setattr(WindowAttend, "kernels", (anywhere, *others))
    model = compiled(spec)
    assert ("flash_window", 3) in used(model.graph)
    close(gradients(model, tokens), gradients(wanted, tokens))
