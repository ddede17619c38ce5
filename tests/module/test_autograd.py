"""Passes may be interleaved, repeated, recomputed and accumulated; gradients stay the same."""

from collections import Counter

import pytest
import torch
from cases import ALL, CASES, DREAMER, GROUPED, tree
from models import close, compiled, gradients, probe, shipped, tokens_for
from strategies import make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import composer

SOME = [
    "dreamer",
    "depth, exclusive",
    "depth before, in and after a nested stack",
    "parallel, twice the same",
]


def added(*each):
    return {name: sum(grads[name] for grads in each) for name in each[0]}


def held(model):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


@pytest.fixture(params=SOME)
def model(request):
    return compiled(CASES[request.param])


@pytest.fixture
def batches(model):
    return tokens_for(model.spec, 2, 6), tokens_for(model.spec, 3, 5, seed=1)


def test_two_forwards_before_one_backward_add_up(model, batches):
    expected = added(*(gradients(model, tokens) for tokens in batches))
    model.zero_grad()
    a, b = (model(tokens) for tokens in batches)
    (probe(a) + probe(b)).backward()
    close(held(model), expected)


def test_two_forwards_before_two_backwards_in_the_order_made(model, batches):
    expected = added(*(gradients(model, tokens) for tokens in batches))
    model.zero_grad()
    a, b = (model(tokens) for tokens in batches)
    probe(a).backward()
    probe(b).backward()
    close(held(model), expected)


def test_a_kept_graph_gives_its_gradients_again(model, batches):
    once = gradients(model, batches[0])
    model.zero_grad()
    loss = probe(model(batches[0]))
    loss.backward(retain_graph=True)
    loss.backward()
    close(held(model), added(once, once))


def test_gradients_of_some_weights_leave_those_of_a_later_backward_alone(model, batches):
    once = gradients(model, batches[0])
    model.zero_grad()
    loss = probe(model(batches[0]))
    name, some = next((n, p) for n, p in model.named_parameters() if n.endswith("query"))
    (alone,) = torch.autograd.grad(loss, [some], retain_graph=True)
    close({name: alone}, {name: once[name]})
    loss.backward()
    close(held(model), once)


def test_micro_batches_accumulate(model, batches):
    expected = added(*(gradients(model, tokens) for tokens in batches))
    model.zero_grad()
    for tokens in batches:
        probe(model(tokens)).backward()
    close(held(model), expected)


def test_no_grad_and_eval_give_the_same_outputs(model, batches):
    trained = model(batches[0])
    with torch.no_grad():
        assert torch.equal(model(batches[0]), trained)
    model.eval()
    assert torch.equal(model(batches[0]), trained)


def test_recomputed_steps_rewrite_their_slots_with_the_same_values(model, batches, monkeypatch):
    model.eval()  # loads are counted in training only, and would be counted twice
    expected = gradients(model, batches[0])
    for module in model.modules():
        if type(module).__name__ == "Stage":
            code = module.code.plain
            again = lambda *values, code=code: checkpoint(code, *values, use_reentrant=False)  # noqa: E731
            monkeypatch.setitem(module.__dict__, "code", again)
    close(gradients(model, batches[0]), expected)


def test_chosen_kernels_equal_references_in_outputs_and_gradients():
    for spec in [make(CASES[case]) for case in ("dreamer, grouped", "sequence, window 3 and qk_norm")]:
        auto, plain = compiled(spec), compiled(spec, "reference", shaken=1)
        plain.load_state_dict(auto.state_dict())
        tokens = tokens_for(spec, 3, 7)
        close({"y": auto(tokens)}, {"y": plain(tokens)})
        close(gradients(auto, tokens), gradients(plain, tokens), 1e-4)


@pytest.mark.parametrize("name", [name for name in shipped() if name != "dreamer-small"])
def test_shipped_specs_give_the_same_with_any_kernels(name):
    spec = shipped()[name]
    auto, plain = composer.compile(spec), composer.compile(spec, kernels="reference")
    assert auto.state_dict().keys() == plain.state_dict().keys()
    tokens = tokens_for(spec, 2, min(24, spec.model.context))
    close({"y": auto(tokens)}, {"y": plain(tokens)})
    close(gradients(auto, tokens), gradients(plain, tokens), 1e-4)


def test_float64_agrees_with_float32():
    model = compiled(DREAMER, "reference")
    tokens = tokens_for(model.spec, 2, 7)
    rough = model(tokens)
    close({"y": rough.double()}, {"y": model.double()(tokens)})


class Casts(TorchDispatchMode):
    """Counts what is cast to bf16 and has neither a row for each sequence nor one for each token."""

    def __init__(self, tokens):
        super().__init__()
        self.found, self.rows = Counter(), (len(tokens), tokens.numel(), 2 * tokens.numel())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16
        if cast and made.shape[0] not in self.rows:
            self.found[tuple(made.shape)] += 1
        return made


def test_under_autocast_weights_are_cast_once_for_all_steps():
    results = []
    for steps in (1, 4):
        blocks = {**ALL, "expert": GROUPED}
        model = compiled(tree(blocks, {"recur": steps, "step": [*blocks]}, width=16))
        tokens = tokens_for(model.spec, 3)
        with Casts(tokens) as casts, torch.autocast("cpu", torch.bfloat16):
            model.loss(tokens, tokens)
        results.append(casts.found)
    assert len(results[0]) > 5
    assert results[0] == results[1]
