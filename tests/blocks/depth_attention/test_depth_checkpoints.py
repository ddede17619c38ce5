"""Steps under a checkpoint that begins a backward pass of its own are refused, and nothing else is."""

import pytest
import torch
from cases import CASES
from depth_kernels import run, weights
from models import close, compiled, probe, tokens_for
from torch.utils.checkpoint import checkpoint

from blocks.depth_attention import reference
from blocks.kernels.slot_memory import slots

fused = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)

SIZES = (1, 3, 4, 2, 8, 3)
REFUSED = "needs use_reentrant=False"


@pytest.fixture(params=["reference", "fused"])
def functions(request, where):
    return {"reference": reference, "fused": fused}[request.param]


@pytest.fixture
def leaves(where):
    return weights(SIZES, device=where)


def reentrant(function, *given):
    return checkpoint(function, *given, use_reentrant=True)


def backward(y, leaves, **options):
    for leaf in leaves:
        leaf.grad = None
    probe(y).backward(**options)
    return {n: leaf.grad.cpu() for n, leaf in enumerate(leaves)}


def steps(functions, leaves, **options):
    return run(functions, SIZES, leaves, **options)


def test_reentrant_checkpoints_of_steps_are_refused(functions, leaves):
    y = steps(functions, leaves, again=reentrant)
    with pytest.raises(RuntimeError, match=REFUSED):
        probe(y).backward()


@pytest.mark.parametrize("part", ["append", "attend"])
def test_so_are_those_of_an_append_or_a_read_alone(functions, where, part):
    memory, token = slots(torch.zeros(2, 3, device=where), 1, 2, 8)
    k, v, q = (torch.randn(2, 3, heads, 8, device=where, requires_grad=True) for heads in (2, 2, 4))
    once = {"append": lambda f, *given: f(*given), "attend": lambda f, *given: f(*given), part: reentrant}
    token = once["append"](lambda k, v: functions.append(k, v, token, memory, 0), k, v)
    y = once["attend"](lambda q, token: functions.attend(q, token, memory, reads=1), q, token)
    with pytest.raises(RuntimeError, match=REFUSED):
        probe(y).backward()


@pytest.mark.parametrize("deep", [1, 2])
def test_reentrant_checkpoints_of_all_that_uses_the_slots_are_not(functions, leaves, deep):
    wanted = backward(steps(functions, leaves), leaves)

    def whole(*given):
        return steps(functions, given)

    y = (
        reentrant(whole, *leaves)
        if deep == 1
        else reentrant(lambda *given: reentrant(whole, *given), *leaves)
    )
    close(backward(y, leaves), wanted, 1e-6)


def test_steps_refused_within_such_a_checkpoint_too(functions, leaves):
    y = reentrant(lambda *given: steps(functions, given, again=reentrant), *leaves)
    with pytest.raises(RuntimeError, match=REFUSED):
        probe(y).backward()


def test_other_checkpoints_run_and_run_again(functions, leaves):
    wanted = backward(steps(functions, leaves), leaves)

    def again(function, *given):
        inner = lambda *each: checkpoint(function, *each, use_reentrant=False)  # noqa: E731
        return checkpoint(inner, *given, use_reentrant=False)

    y = steps(functions, leaves, again=again)
    for _ in range(2):
        close(backward(y, leaves, retain_graph=True), wanted, 1e-6)


def test_steps_without_gradients_before_steps_with_them_are_truncated(functions, leaves):
    def again(function, x, token, scale, t):
        if t == 2:
            return function(x, token, scale, t)
        with torch.no_grad():
            return function(x, token, scale, t)

    grads = backward(steps(functions, leaves, again=again), [leaves[1]])
    assert grads[0][2].any()
    assert not grads[0][:2].any()


def test_a_whole_training_step_within_a_backward_pass_is_its_own(functions, leaves):
    wanted = backward(steps(functions, leaves), leaves)
    results = []

    def train(gradient):
        with torch.enable_grad():
            results.append(backward(steps(functions, leaves), leaves))

    product = torch.ones(1, requires_grad=True) * 2
    product.register_hook(train)
    product.sum().backward()
    close(results[0], wanted, 1e-6)


def test_a_model_with_such_steps_is_refused_where_it_trains():
    model = compiled(CASES["depth"])
    tokens = tokens_for(model.spec)
    stage = model.stages._modules["0"]
    code = stage.code

    class Again(torch.nn.Module):
        def forward(self, *given):
            return reentrant(code, *given)

    stage.code = Again()
    with pytest.raises(RuntimeError, match=REFUSED):
        model.loss(tokens, tokens).backward()
    with torch.no_grad():
        model(tokens)
