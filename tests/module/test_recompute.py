"""Operations that run again in the backward pass: the same numbers, the declared bytes and FLOPs."""

import copy
import gc
import weakref
from collections import Counter

import pytest
import torch
from cases import CASES, DREAMER, EXPERT, one
from hypothesis import assume, given
from hypothesis import strategies as st
from models import probe, shake, shipped, shortened, tokens_for
from samples import samples, some
from storages import Storages, alive, counted
from strategies import make, specs
from torch.nn.attention import SDPBackend, sdpa_kernel

from blocks.ir.graph import Loop
from blocks.ir.walk import graphs, operations
from composer.costs.base.precision import FULL
from composer.costs.memory.recompute import recompute_flops
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import mark_recompute, recomputable, recomputed
from composer.module.emission import recompute
from composer.module.emission.stage import source
from composer.module.model import ComposedModel

SOME = ["dreamer", "dreamer, grouped", "prelude, core, coda, untied", "parallel, gate", "three levels"]


def places(spec):
    return list(recomputable(compile_graph(spec)))


def model_of(spec, chosen=()):
    model = ComposedModel(spec, recompute=chosen)
    shake(model)
    return model


def everything(case):
    spec = make(CASES[case])
    return model_of(spec), model_of(spec, places(spec))


@st.composite
def marked(draw, **bounds):
    """A spec and some of the operations in it that can be recomputed."""
    spec = draw(specs(**bounds))
    every = places(spec)
    some = draw(st.one_of(st.just(every), st.lists(st.sampled_from(every), unique=True)))
    return spec, some


def trained(model, tokens, backward=torch.Tensor.backward):
    """The loss, all gradients and all states after one pass, bit by bit comparable."""
    model.zero_grad()
    loss = model.loss(tokens, tokens)
    backward(loss)
    return [loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


def same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def check_same(plain, again, run):
    same(run(plain), run(again))


# the same numbers


@samples(60)
@given(marked(room=4))
def test_loss_gradients_and_loads_are_the_same_bit_for_bit(example):
    spec, some = example
    tokens = tokens_for(spec)
    expected = trained(model_of(spec), tokens)
    # without norms a model of random weights may overflow
    assume(all(each.isfinite().all() for each in expected if each is not None))
    same(expected, trained(model_of(spec, some), tokens))


@pytest.mark.parametrize("case", [*some(CASES, 2)])
def test_every_option_gives_the_same_when_all_is_recomputed(case):
    plain, again = everything(case)
    tokens = tokens_for(plain.spec, 3, 7)
    check_same(plain, again, lambda model: trained(model, tokens))


@pytest.mark.parametrize("name", [name for name in shipped() if name != "dreamer-small"])
def test_shipped_specs_give_the_same_under_autocast(name):
    spec = shortened(shipped()[name], 12)
    tokens = tokens_for(spec)

    def run(model):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(tokens, tokens)
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters())]

    check_same(model_of(spec), model_of(spec, places(spec)), run)


@pytest.mark.parametrize("case", SOME)
def test_a_kept_graph_gives_its_gradients_again(case):
    plain, again = everything(case)
    tokens = tokens_for(plain.spec)

    def twice(loss):
        loss.backward(retain_graph=True)
        loss.backward()

    check_same(plain, again, lambda model: trained(model, tokens, twice))


@pytest.mark.parametrize("case", SOME)
def test_passes_may_be_interleaved_and_partial(case):
    plain, again = everything(case)
    first, second = tokens_for(plain.spec, 2, 6), tokens_for(plain.spec, 3, 5, seed=1)

    def run(model):
        model.zero_grad()
        a, b = model(first), model(second)
        weight = next(p for n, p in model.named_parameters() if n.endswith(("query", "key", "gate")))
        (part,) = torch.autograd.grad(probe(a), [weight], retain_graph=True)
        probe(a).backward()
        probe(b).backward()
        return [part, *(p.grad for p in model.parameters())]

    check_same(plain, again, run)


@pytest.mark.parametrize("case", SOME)
def test_without_gradients_nothing_is_made_ready_to_run_again(case, monkeypatch):
    plain, again = everything(case)
    tokens = tokens_for(plain.spec)
    expected = plain.eval()(tokens)
    assert torch.equal(again.eval()(tokens), expected)
    monkeypatch.setattr(recompute, "_Run", None)
    with torch.no_grad():
        assert torch.equal(again(tokens), expected)


def test_loads_are_counted_once():
    spec = make(one(EXPERT))
    model = model_of(spec, places(spec))
    tokens = tokens_for(spec)
    model.loss(tokens, tokens).backward()
    (load,) = (buffer for name, buffer in model.named_buffers() if name.endswith("load"))
    assert load.sum() == tokens.numel() * 3 * 2


# fewer bytes


@samples(25)
@given(marked(room=3))
def test_what_is_kept_is_what_is_declared(example):
    check_kept(model_of(*example))


def test_an_output_that_its_own_operation_keeps_is_made_again():
    spec = make(one({"type": "feed_forward", "hidden": 3, "activation": "relu"}))
    check_kept(model_of(spec, places(spec)))


def check_kept(model):
    length = model.spec.model.context
    got = (alive(model, 5) - alive(model, 2)) / (3 * length)
    assert saved_per_token(model.graph, length, FULL) == pytest.approx(got, rel=1e-12)


@pytest.mark.parametrize("case", SOME)
def test_the_backward_pass_frees_everything_at_once(case, monkeypatch):
    _, model = everything(case)
    runs, start = weakref.WeakSet(), recompute._Run.__init__

    def made(run, *args):
        start(run, *args)
        runs.add(run)

    monkeypatch.setattr(recompute._Run, "__init__", made)
    gc.collect()
    gc.disable()  # nothing waits for the collector
    try:
        with Storages(model) as storages:
            loss = model.loss(tokens_for(model.spec), tokens_for(model.spec))
            assert storages.bytes() > 0
            assert len(runs) > 0
            loss.backward()
            model.zero_grad()
            del loss
            assert storages.bytes() == 0
            assert len(runs) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("case", SOME)
def test_a_pass_over_a_part_of_the_graph_leaves_nothing_behind(case):
    _, model = everything(case)
    tokens = tokens_for(model.spec)
    weight = next(p for n, p in model.named_parameters() if n.endswith(("query", "key", "gate")))
    with Storages(model) as storages:
        loss = model.loss(tokens, tokens)
        before = storages.bytes()
        torch.autograd.grad(loss, [weight], retain_graph=True)
        assert storages.bytes() == before


# the FLOPs that were declared


@samples(25)
@given(marked(room=3))
def test_what_runs_again_costs_what_is_declared(example):
    spec, some = example
    model = model_of(spec, some)
    declared = recompute_flops(model.graph, spec.model.context, full_mask=True)
    got = counted(model) - counted(model_of(spec))
    assert declared * 2 * spec.model.context == pytest.approx(got, rel=1e-12)


@samples(30)
@given(marked(room=4))
def test_no_operation_runs_again_twice(example):
    spec, some = example
    runs, again = Counter(), recompute._Run.again

    def spied(run):
        runs[id(run)] += 1
        held.append(run)
        again(run)

    model, tokens, held = model_of(spec, some), tokens_for(spec), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute._Run, "again", spied)
        model.loss(tokens, tokens).backward()
    assert set(runs.values()) <= {1}
    assert bool(runs) <= bool(some)


# marks, code and refusals


def test_the_code_says_what_is_recomputed():
    spec = make(DREAMER)
    code = dict(source(model_of(spec, ["stages.0.0.norm"])))["stages.0"]
    assert "norm_0 = self.recomputed_rms_norm(x, norm_0_weight)" in code
    assert "seq_query, seq_key, seq_value = self.reading_project_joined(norm_0, seq_query_joined," in code
    assert code.count("self.") == 2


def test_marks_are_exactly_those_that_were_asked_for():
    graph = compile_graph(make(DREAMER))
    some = ["stages.0.0.norm", "stages.0.2.expert.experts", "norm"]
    once = mark_recompute(graph, some)
    assert sorted(recomputed(once)) == sorted(some)
    assert [*recomputed(mark_recompute(once, ["norm"]))] == ["norm"]
    assert [*recomputed(graph)] == []


REFUSED = ["head", "loss", "embed", "stages.0", "stages.0.2.add", "stages.0.1.depth.append", "nowhere"]


@pytest.mark.parametrize("place", [*REFUSED, "stages.0.1.depth.attend", "depth.slots", "rope_6"])
def test_what_cannot_be_recomputed_is_refused(place):
    spec = make(DREAMER)
    with pytest.raises(ValueError, match=f"can be recomputed, got '{place}'"):
        mark_recompute(compile_graph(spec), [place])


@samples(30)
@given(specs())
def test_slots_tables_inputs_and_results_are_never_recomputed(spec):
    graph = compile_graph(spec)
    for body, _ in graphs(mark_recompute(graph, [*recomputable(graph)])):
        returned = {value.node for value in body.outputs}
        for node, operation, data in operations(body):
            kind = type(operation).__name__
            stays = kind in (
                "Input",
                "Loop",
                "DepthKVCache",
                "WriteKV",
                "SequenceTable",
                "StepTable",
                "WindowMask",
            )
            # a loop keeps what it reads, which others then read as well
            shared = len({isinstance(body.node(reader).op, Loop) for reader in body.successors(node)}) > 1
            each_step = any(body.type_of(value).kind == "steps" for value in data.inputs)
            stays = stays or shared or each_step or node in returned
            assert data.recompute == (not stays and operation.recomputable)


def test_weights_and_their_names_do_not_depend_on_marks():
    spec = make(DREAMER)
    plain, again = ComposedModel(spec), ComposedModel(spec, recompute=places(spec))
    assert [*plain.state_dict()] == [*again.state_dict()]
    same([*plain.state_dict().values()], [*again.state_dict().values()])


def test_copies_and_checkpoints_keep_the_marks():
    spec = make(DREAMER)
    model = model_of(spec, ["stages.0.0.norm"])
    tokens = tokens_for(spec)
    restored = ComposedModel(**model.hparams)
    restored.load_state_dict(model.state_dict())
    for each in (copy.deepcopy(model), restored):
        assert [*recomputed(each.graph)] == ["stages.0.0.norm"]
        check_same(model, each, lambda model: trained(model, tokens)[:-1])


def test_a_weight_changed_between_the_passes_is_told():
    spec = make(DREAMER)
    model = model_of(spec, places(spec))
    tokens = tokens_for(spec)
    loss = model.loss(tokens, tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    # torch tells of it, or we do, whichever reads a changed tensor first
    with pytest.raises(RuntimeError):
        loss.backward()


def test_another_choice_of_backends_in_the_backward_pass_is_told():
    spec = make(DREAMER)
    model = model_of(spec, places(spec))
    tokens = tokens_for(spec)
    loss = model.loss(tokens, tokens)
    refused = pytest.raises(
        RuntimeError, match=r"attend_causal keeps other tensors .* both passes must run alike"
    )
    with sdpa_kernel(SDPBackend.MATH), refused:
        loss.backward()
