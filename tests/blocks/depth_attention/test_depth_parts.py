"""Depth attention over some slots, with a bias by distance, and with the input of its scope as a slot."""

from itertools import product
from math import ceil
from types import SimpleNamespace

import pytest
import torch
from cases import DEPTH, FFN, tree
from depth_kernels import far, run, weights
from hypothesis import given
from hypothesis import strategies as st
from models import check_other_steps, compiled, probe, tokens_for
from samples import samples
from strategies import make

from blocks.depth_attention import reference
from blocks.depth_attention.windowed import WindowedAttend
from blocks.ir.kernel import Target
from blocks.ir.operation import LoopIndex
from blocks.ir.steps import OneStep, StepCount, Steps
from blocks.ir.walk import graphs, operations
from blocks.ir.windowed_mean import windowed_mean
from blocks.primitives.fused import sum_gain
from composer.graph.compile import compile_graph
from composer.module.model import ComposedModel

PART = {**DEPTH, "window": 3, "stride": 2, "bias": "distance", "input": True}


@samples(200)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 4),
)
def test_the_mean_of_what_is_read_is_that_of_all_executions(base, loops, window, stride):
    trips = {f"n{n}": steps for n, (steps, _) in enumerate(loops)}
    index = LoopIndex(base, tuple((f"n{n}", grown) for n, (_, grown) in enumerate(loops)))
    reads = {
        at: base + sum(step * grown for step, (_, grown) in zip(at, loops, strict=True))
        for at in product(*map(range, trips.values()))
    }
    taken = {at: ceil(min(each, window or each) / stride) for at, each in reads.items()}
    assert windowed_mean(index, trips, window, stride) == pytest.approx(sum(taken.values()) / len(taken))
    last = max(taken)
    there = {name: OneStep(step) for name, step in zip(trips, last, strict=True)}
    assert windowed_mean(index, there, window, stride) == taken[last]


def test_the_mean_of_an_index_that_grows_at_some_steps_only():
    index = LoopIndex(1, (("m", 2),), (StepCount("n", Steps(step=2), 3),))
    grown = [0, 3, 3, 6, 6]
    results = [ceil(min(1 + 2 * m + each, 7) / 2) for each in grown for m in range(3)]
    assert windowed_mean(index, {"n": 5, "m": 3}, 7, 2) == pytest.approx(sum(results) / len(results))


def test_the_mean_within_a_stretch_of_steps_is_that_of_its_steps():
    # one slot a step, and one more from step 1 on
    index = LoopIndex(1, (("n", 1),), (StepCount("n", Steps(1), 1),))
    results = [min(1 + n + index.counts[0].at(n, 4), 3) for n in (1, 2, 3)]
    assert windowed_mean(index.from_step("n", 1, 4, 4), {"n": 3}, 3, 1) == pytest.approx(sum(results) / 3)


def test_a_window_bounds_the_work_on_loops_of_any_length():
    index = LoopIndex(0, (("n", 10**12 + 1), ("m", 1)))
    trips = {"n": 10**12, "m": 10**12}
    assert windowed_mean(index, trips, 1000, 1) == pytest.approx(1000)
    assert windowed_mean(LoopIndex(1, (("n", 3),)), {"n": 10**12}, None, 64) == pytest.approx(
        3e12 / 128, rel=1e-6
    )


def two_loops(steps, inner):
    inside = {"recur": inner, "step": ["d", "f"]}
    blocks = {"d": PART, "f": FFN}
    return make(tree(blocks, {"recur": steps, "step": ["d", inside, "f"]}))


@pytest.mark.parametrize(("steps", "inner"), [(1, 2), (6, 1), (2, 5)])
def test_other_numbers_of_steps_are_those_of_a_model_that_has_them(steps, inner):
    check_other_steps(two_loops(3, 2), two_loops(steps, inner), {"stages.0": steps, "stages.0.1": inner})


@pytest.mark.parametrize("scope", ["stage", "model"])
def test_a_wider_scope_is_counted_with_other_numbers_of_steps(scope):
    def spec(steps):
        inside = {"recur": 2, "step": ["d", "f"]}
        blocks = {"d": {**DEPTH, "depth_scope": scope, "input": True}, "f": FFN}
        return make(tree(blocks, {"recur": steps, "step": [inside, "d"]}, {"stack": 2, "step": ["d"]}))

    check_other_steps(spec(2), spec(4), {"stages.0": 4})


def test_a_token_reads_its_own_depth_alone():
    model = compiled(tree({"d": PART, "f": FFN}, {"recur": 4, "step": ["f", "d"]})).eval()
    tokens = tokens_for(model.spec, 1, 6)
    other = tokens.clone()
    other[0, 2] = (other[0, 2] + 1) % 11
    with torch.no_grad():
        moved = (model(other) - model(tokens)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, False, True, False, False, False]


def test_the_bias_starts_with_the_slopes_of_alibi():
    model = ComposedModel(make(tree({"d": {**PART, "heads": 4, "kv_heads": 2}}, {"recur": 2, "step": ["d"]})))
    bias = model.get_parameter("stages.0.step.0.d.distance_bias")
    torch.testing.assert_close(bias.detach(), torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"window": 2}, "windowed"), ({"bias": "distance"}, "biased"), ({**PART, "input": False}, "biased")],
)
def test_on_a_gpu_kernels_read_some_slots_and_subtract_a_bias(fields, name):
    spec = make(tree({"d": {**DEPTH, **fields}}, {"recur": 3, "step": ["d"]}))
    graph = compile_graph(spec, Target("cuda", "bfloat16"))
    (choice,) = (
        data.choice
        for body, _ in graphs(graph)
        for _, op, data in operations(body)
        if isinstance(op, WindowedAttend)
    )
    assert choice.kernel.name == f"triton_attend_{name}_rotated"


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (None, 2), (4, 3)])
def test_queries_that_the_kernel_rotates_give_what_rotated_ones_do(where, window, stride):
    fused = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)
    sizes, results = (1, 3, 4, 2, 8, 5), []
    for module, dtype in ((fused, torch.float32), (reference, torch.float64)):
        device = where if module is fused else "cpu"
        angle = torch.linspace(0.1, 1, 4, dtype=torch.float32, device=device)
        angle = angle if module is fused else angle.double()

        def append(key, value, token, memory, slot, angle=angle, module=module):
            return module.append_rotated(key, value, token, memory, angle, slot, slot)

        def attend(query, token, memory, *, reads, angle=angle, module=module):
            part = {} if reads == 5 else {"window": window, "stride": stride}
            return module.attend_rotated(query, token, memory, angle, reads=reads, index=reads, **part)

        leaves = weights(sizes, dtype, device)
        y = run(SimpleNamespace(append=append, attend=attend), sizes, leaves)
        results.append([y.detach().cpu(), *(each.cpu() for each in torch.autograd.grad(probe(y), leaves))])
    # five steps grow what fp32 rounds
    assert all(far(got, wanted) < 1e-4 for got, wanted in zip(*results, strict=True))


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (None, 2), (4, 3)])
@pytest.mark.parametrize("detached", [(), (0, 1)])
def test_the_kernel_over_some_slots_gives_what_the_reference_gives(where, window, stride, detached):
    fused = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)
    sizes, results = (1, 3, 4, 2, 8, 5), []
    for module, dtype in ((fused, torch.float32), (reference, torch.float64)):
        # the last read is of all slots, whose gradients go another way where that is cheaper
        def attend(query, token, memory, *, reads, module=module):
            part = {} if reads == 5 else {"window": window, "stride": stride}
            return module.attend(query, token, memory, reads=reads, **part)

        way = SimpleNamespace(append=module.append, attend=attend)
        leaves = weights(sizes, dtype, where if module is fused else "cpu")
        y = run(way, sizes, leaves, detached=detached)
        results.append([y.detach().cpu(), *(each.cpu() for each in torch.autograd.grad(probe(y), leaves))])
    # five steps grow what fp32 rounds
    assert all(far(got, wanted) < 1e-4 for got, wanted in zip(*results, strict=True))


@pytest.mark.parametrize("way", ["pull", "push"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(None, 1), (2, 1), (None, 2)])
def test_a_bias_in_the_kernels_gives_what_the_reference_gives(
    where, monkeypatch, way, turned, window, stride
):
    fused = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)
    monkeypatch.setattr(fused, "backward_method", lambda *sizes: way)
    sizes, results = (1, 3, 6, 2, 8, 4), []
    for module, dtype in ((fused, torch.float32), (reference, torch.float64)):
        device = where if module is fused else "cpu"
        # where nothing is read, exp of a steep one would be infinite
        slopes = torch.tensor([[0.5, -0.3, -90, 2, 0, 1], [-0.2, 0.1, 0.4, -80, 1, 3]], dtype=dtype)
        slopes = slopes.to(device).requires_grad_()
        # two uses of a block share slots and have weights of their own; one adds up its gradients
        (summed,) = sum_gain(slopes[0]) if module is fused else (slopes[0],)
        biases = [summed, slopes[1]]

        def attend(query, token, memory, *given, reads, module=module, biases=biases, **named):
            part = {"reads": reads, "window": window, "stride": stride, **named}
            function = module.attend_rotated if given else module.attend
            return function(query, token, memory, *given, biases[reads % 2], **part)

        steps = SimpleNamespace(
            append=module.append, append_rotated=module.append_rotated, attend=attend, attend_rotated=attend
        )
        leaves = [*weights(sizes, dtype, device), slopes]
        y = run(steps, sizes, leaves[:2], span="exclusive", turned=turned)
        for _ in range(2):
            grads = torch.autograd.grad(probe(y), leaves, retain_graph=True)
            results.append([each.detach().cpu() for each in (y, *grads)])
    first, again, wanted, _ = results
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(far(got, each) < 1e-4 for got, each in zip(first, wanted, strict=True))
