"""Depth attention by kernels gives the gradients of the reference, however passes are run."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cases import CASES, DEPTH, FFN, tree
from depth_kernels import check, run, weights
from models import check_same_training, check_saved, close, compiled, probe, tokens_for
from torch.utils.checkpoint import checkpoint

from blocks.depth_attention import reference
from blocks.depth_attention.operations import Attend, RotaryAttend, RotaryWriteKV, WriteKV
from blocks.depth_attention.windowed import BiasedAttend
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.kernels.slot_memory import slots as slots_of
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.module.model import ComposedModel

fused = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)

SIZES = (1, 3, 4, 2, 8, 3)


@pytest.fixture(params=["pull", "push"])
def way(request, monkeypatch, where):
    """Both ways; pushes and pulls are counted."""
    count = SimpleNamespace(name=request.param, where=where, push=0, pull=0)
    kernel = fused.kernel
    backward, pull = kernel.attend_backward, fused.pull_kernel.pull

    def counted(*args, push=None, **named):
        count.push += push is not None
        return backward(*args, push=push, **named)

    def pulled(*args):
        count.pull += 1
        return pull(*args)

    monkeypatch.setattr(fused, "backward_method", lambda *sizes: request.param)
    monkeypatch.setattr(kernel, "attend_backward", counted)
    monkeypatch.setattr(fused.pull_kernel, "pull", pulled)
    return count


def expected(leaves, **options):
    """Output and gradients of the reference in fp64, on the CPU."""
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    y = run(reference, SIZES, exact, **options)
    return [y.detach(), *torch.autograd.grad(probe(y), exact)]


def loss_of(leaves, functions=fused, **options):
    return probe(run(functions, SIZES, leaves, **options))


def same(got, wanted, scale=1):
    check([each.cpu() for each in got], [scale * each for each in wanted], torch.float32)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("span", ["inclusive", "exclusive"])
def test_steps_give_the_gradients_of_the_reference(way, span, turned):
    leaves = weights(SIZES, device=way.where)
    options = {"span": span, "turned": turned}
    y = run(fused, SIZES, leaves, **options)
    same([y.detach(), *torch.autograd.grad(probe(y), leaves)], expected(leaves, **options))
    reads = 3 if span == "inclusive" else 2
    assert (way.push, way.pull) == ((0, 3) if way.name == "pull" else (reads, 0))


def test_the_first_of_exclusive_reads_is_exactly_0(way):
    leaves = weights(SIZES, device=way.where)
    one = (*SIZES[:5], 1)
    y = run(fused, one, [leaves[0], leaves[1][:1]], span="exclusive")
    assert torch.equal(y, leaves[0])
    (gradient,) = torch.autograd.grad(y.sum(), leaves[1])
    assert not gradient.any()


@pytest.mark.parametrize("detached", [(0,), (0, 1), (1,), (0, 1, 2)])
def test_detached_slots_get_no_gradient(way, detached):
    leaves = weights(SIZES, device=way.where)
    y = run(fused, SIZES, leaves, detached=detached)
    same([y.detach(), *torch.autograd.grad(probe(y), leaves)], expected(leaves, detached=detached))
    assert way.pull == (3 - len(detached) if way.name == "pull" else 0)
    if len(detached) == 3:
        assert not way.push


def test_steps_may_be_checkpointed(way):
    leaves = weights(SIZES, device=way.where)
    again = partial(checkpoint, use_reentrant=False)
    got = torch.autograd.grad(loss_of(leaves, again=again), leaves)
    same(got, expected(leaves)[1:])


def test_a_kept_graph_gives_its_gradients_again(way):
    leaves = weights(SIZES, device=way.where)
    loss, wanted = loss_of(leaves), expected(leaves)[1:]
    for keep in (True, True, False):
        same(torch.autograd.grad(loss, leaves, retain_graph=keep), wanted)


def test_a_pass_over_a_part_leaves_nothing_to_the_next(way):
    leaves = weights(SIZES, device=way.where)
    scales = [leaves[1].detach()[t].clone().requires_grad_() for t in range(3)]
    loss = loss_of([leaves[0], scales])
    wanted = expected(leaves)[2]
    # the part of the last step does not reach the appends before it
    for t in (2, 1, 0, 2):
        (got,) = torch.autograd.grad(loss, scales[t], retain_graph=True)
        same([got], [wanted[t]])
    same(torch.autograd.grad(loss, scales), wanted.unbind())


def test_passes_may_be_interleaved_and_add_up(way):
    leaves = weights(SIZES, device=way.where)
    first, second = loss_of(leaves), loss_of(leaves)
    (first + second).backward()
    loss_of(leaves).backward()
    same([leaf.grad for leaf in leaves], expected(leaves)[1:], scale=3)


def test_what_reads_left_is_gone_when_the_pass_ends(way, monkeypatch):
    memories = []
    make = fused.SlotMemory.__init__
    monkeypatch.setattr(
        fused.SlotMemory, "__init__", lambda self, *args: (make(self, *args), memories.append(self))[0]
    )
    leaves = weights(SIZES, device=way.where)
    scales = [leaves[1].detach()[t].clone().requires_grad_() for t in range(3)]
    loss = loss_of([leaves[0], scales])
    torch.autograd.grad(loss, scales[2], retain_graph=True)
    assert memories[0]._left == []
    loss.backward()
    assert memories[0]._left == []


def test_gradients_are_the_same_bits_each_time(way):
    leaves = weights(SIZES, device=way.where)
    one, other = (torch.autograd.grad(loss_of(leaves), leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_double_backward_is_refused(way):
    leaves = weights(SIZES, device=way.where)
    (gradient, _) = torch.autograd.grad(loss_of(leaves), leaves, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_without_gradients_the_output_is_the_same(way):
    leaves = weights(SIZES, device=way.where)
    y = run(fused, SIZES, leaves)
    with torch.no_grad():
        assert torch.equal(run(fused, SIZES, leaves), y)


@pytest.mark.parametrize(("append", "attend"), [(reference, fused), (fused, reference)])
def test_kernels_and_references_mix(way, append, attend):
    leaves = weights(SIZES, device=way.where)
    mixed = SimpleNamespace(append=append.append, attend=attend.attend)
    same(torch.autograd.grad(loss_of(leaves, mixed), leaves), expected(leaves)[1:])
    assert not way.pull  # an append of the reference fetches nothing


def test_reads_of_both_kinds_in_one_pass_add_up(way):
    leaves = weights(SIZES, device=way.where)
    kinds = iter([fused.attend, reference.attend, fused.attend])
    mixed = SimpleNamespace(append=fused.append, attend=lambda *given, **reads: next(kinds)(*given, **reads))
    same(torch.autograd.grad(loss_of(leaves, mixed), leaves), expected(leaves)[1:])
    assert way.pull == (3 if way.name == "pull" else 0)


def test_what_the_kernels_have_no_dtype_for_runs_the_reference(way):
    leaves = weights(SIZES, torch.float64, way.where)
    got = torch.autograd.grad(loss_of(leaves), leaves)
    close(dict(enumerate(each.cpu() for each in got)), dict(enumerate(expected(leaves)[1:])), 1e-12)
    assert (way.push, way.pull) == (0, 0)


@pytest.mark.parametrize("sizes", [(1, 3, 4, 2, 48, 3), (2, 3, 3, 1, 80, 2), (1, 2, 2, 2, 112, 2)])
def test_turned_heads_of_any_size_give_the_gradients_of_the_reference(way, sizes):
    leaves = weights(sizes, device=way.where)
    y = run(fused, sizes, leaves, turned=True)
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    wanted = run(reference, sizes, exact, turned=True)
    same(
        [y.detach(), *torch.autograd.grad(probe(y), leaves)],
        [wanted.detach(), *torch.autograd.grad(probe(wanted), exact)],
    )


def test_queries_are_pulled_from_where_they_lie(way, monkeypatch):
    copies = []
    readable = fused.kernel.readable
    monkeypatch.setattr(fused.kernel, "readable", lambda x: copies.append(x.shape) or readable(x))
    leaves = weights(SIZES, device=way.where)
    torch.autograd.grad(loss_of(leaves, turned=True), leaves)
    # one gradient for each read
    assert len(copies) == (3 if way.name == "pull" else 0)


def test_what_was_pushed_and_pulled_is_turned_back_as_one(way, monkeypatch):
    ways = iter(["pull", "push", "pull"])
    monkeypatch.setattr(fused, "backward_method", lambda *sizes: next(ways))
    leaves = weights(SIZES, device=way.where)
    same(torch.autograd.grad(loss_of(leaves, turned=True), leaves), expected(leaves, turned=True)[1:])
    assert (way.push, way.pull) == (1, 3)


def test_without_a_gpu_the_reference_runs():
    leaves = weights(SIZES)
    assert not fused.fits(leaves[0])
    y = run(fused, SIZES, leaves)
    assert torch.equal(y, run(reference, SIZES, leaves))


# the plan and whole models


def chosen(tree, target, kernels="auto"):
    graph = compile_graph(compiled(tree).spec, target, kernels)
    return {
        type(op): (data.choice, op)
        for body, _ in graphs(graph)
        for _, op, data in operations(body)
        if isinstance(op, WriteKV | Attend)
    }


def test_the_plan_takes_the_kernels_on_a_gpu_and_says_why_elsewhere():
    tree = CASES["depth, rotary off, odd heads"]
    for target, reason in (
        (Target("cuda", "bfloat16"), ""),
        (Target("cpu"), "needs a GPU"),
        (Target("cuda", "float64"), "it has no float64"),
    ):
        result = chosen(tree, target)
        for kind, name in ((WriteKV, "triton_append"), (Attend, "triton_attend")):
            choice, operation = result[kind]
            assert (choice.kernel.name == name) == (not reason)
            assert not reason or choice.why.endswith(f"not {name}: {reason}")
            assert kind is WriteKV or operation.fused == (not reason)
    large = chosen({**tree, "blocks": {"b": {**tree["blocks"]["b"], "head_dim": 130}}}, Target("cuda"))
    assert "heads are larger than 128" in large[Attend][0].why
    plain = chosen(tree, Target("cuda"), "reference")
    assert plain[Attend][0].kernel.name == "slot_attend"
    assert not plain[Attend][1].fused


def test_on_a_gpu_heads_are_turned_by_the_kernels_that_read_them():
    there, here = (chosen(CASES["depth"], target) for target in (Target("cuda", "bfloat16"), None))
    assert {each: result[0].kernel.name for each, result in there.items()} == {
        RotaryWriteKV: "triton_append_rotated",
        RotaryAttend: "triton_attend_rotated",
    }
    assert {*here} == {WriteKV, Attend}
    for turned, alone in ((RotaryWriteKV, WriteKV), (RotaryAttend, Attend)):
        plain = here[alone][1]
        assert getattr(there[turned][1], "slot" if alone is WriteKV else "reads") == getattr(
            plain, "slot" if alone is WriteKV else "reads"
        )
    # queries and keys of a step are turned by one index
    assert there[RotaryWriteKV][1].index == there[RotaryAttend][1].index != WriteKV.slot


@pytest.fixture
def forced(monkeypatch):
    """The plan takes the kernels, whatever it is made for."""
    for kind in (WriteKV, Attend, BiasedAttend):
        first, *others = kind.kernels
        monkeypatch.setattr(kind, "kernels", (replace(first, unfit=lambda *given: ""), *others))


BIASED = {**DEPTH, "rotary": False, "bias": "distance"}
TREES = {**CASES, "biased, twice": tree({"d": BIASED, "f": FFN}, {"recur": 3, "step": ["d", "f", "d"]})}
MODELS = {
    "biased, twice": False,
    "dreamer": False,
    "dreamer, grouped": True,
    "depth before, in and after a nested stack": False,
    "parallel, twice the same": False,
}


@pytest.mark.parametrize("case", MODELS)
def test_models_by_kernels_give_the_loss_and_gradients_of_the_reference(way, forced, case):
    plain = compiled(TREES[case], "reference")
    again = [*recomputable(plain.graph)] if MODELS[case] else []
    model = ComposedModel(plain.spec, recompute=again)
    model.load_state_dict(plain.state_dict())
    check_same_training(model.to(way.where).train(), plain, tokens_for(model.spec, 1, 5), way.where)
    assert way.pull if way.name == "pull" else way.push


@pytest.mark.parametrize("case", ["depth", "dreamer, grouped", "biased, twice"])
def test_models_by_kernels_keep_what_they_declare(where, forced, attention_keeps_as_declared, case):
    check_saved(compiled(TREES[case]).to(where), where)


def once(functions, leaves, slots, reads, turned=False, before=0):
    """Append slots and read once, after the append of `before` (default: all); return the output."""
    query, *kv = leaves
    memory, token = slots_of(query[..., 0, 0], slots, *kv[0].shape[2:])
    angle = torch.arange(1, query.shape[-1] // 2 + 1, device=query.device) * 0.3
    for n in range(slots):
        if n == before:
            y = _read(functions, query, token, memory, reads, angle if turned else None)
        token = _write(functions, kv[2 * n], kv[2 * n + 1], token, memory, n, angle if turned else None)
    return y if before < slots else _read(functions, query, token, memory, reads, angle if turned else None)


def _read(functions, query, token, memory, reads, angle):
    if angle is None:
        return functions.attend(query, token, memory, reads=reads)
    return functions.attend_rotated(query, token, memory, angle, reads=reads, index=2)


def _write(functions, key, value, token, memory, slot, angle):
    if angle is None:
        return functions.append(key, value, token, memory, slot)
    return functions.append_rotated(key, value, token, memory, angle, slot, slot)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("reads", "before", "frozen"), [(3, 3, ()), (2, 2, ()), (2, 3, ()), (3, 3, (0, 1))])
def test_the_only_read_writes_its_gradients_as_they_are(way, turned, reads, before, frozen):
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 4, 6), *[(2, 5, 2, 6)] * 6]
    leaves = [torch.randn(shape, generator=draw).to(way.where) for shape in shapes]
    wanting = [n for n in range(7) if (n - 1) // 2 not in frozen or not n]
    for n in wanting:
        leaves[n].requires_grad_()
    exact = [leaf.detach().cpu().double().requires_grad_(leaf.requires_grad) for leaf in leaves]
    wanted = once(reference, exact, 3, reads, turned, before)
    grads = torch.autograd.grad(probe(wanted), [exact[n] for n in wanting], allow_unused=True)
    y = once(fused, leaves, 3, reads, turned, before)
    for _ in range(2):  # each pass by itself
        got = torch.autograd.grad(
            probe(y), [leaves[n] for n in wanting], allow_unused=True, retain_graph=True
        )
        pairs = [(a, b) for a, b in zip(got, grads, strict=True) if b is not None]
        assert [a is None for a in got] == [b is None for b in grads]
        same([y.detach(), *(a for a, _ in pairs)], [wanted.detach(), *(b for _, b in pairs)])
    assert (way.push, way.pull) == (2, 0)


def test_a_read_that_a_checkpoint_runs_again_is_not_the_only_one(way):
    leaves = [torch.randn(1, 3, n, 4, device=way.where, requires_grad=True) for n in (2, 1, 1)]
    memory, token = slots_of(leaves[0][..., 0, 0], 1, 1, 4)
    token = fused.append(leaves[1], leaves[2], token, memory, 0)
    y = checkpoint(fused.attend, leaves[0], token, memory, reads=1, use_reentrant=False)
    grads = torch.autograd.grad(probe(y), leaves)
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    same(grads, torch.autograd.grad(probe(once(reference, exact, 1, 1, False, 1)), exact))
