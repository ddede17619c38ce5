"""What an output may depend on: no later token, no token out of the window, no other row, no other pass."""

import pytest
import torch
from cases import CASES, DEPTH, FFN, SEQ, tree
from hypothesis import assume, given
from models import compiled, tokens_for
from samples import pairs, samples
from strategies import specs

FAR = 1e-4  # what rounding cannot do


@torch.no_grad()
def changed(model, tokens, row, at):
    """Return which outputs [batch, sequence] move when a token, or one in each of some rows, is another."""
    other = tokens.clone()
    other[row, at] = (other[row, at] + 1) % model.spec.model.vocab
    return (model(tokens) - model(other)).abs().amax(-1) > FAR


def check(model):
    # the first and the last row stay
    places = {1: 0, 2: 2, 3: 5}
    moved = changed(model, tokens_for(model.spec, 5, 6), [*places], [*places.values()])
    assert not moved[[0, -1]].any(), "a row moves another"
    for row, at in places.items():
        assert not moved[row, :at].any(), f"token {at} moves earlier outputs"
        assert moved[row, at], "a token does not even move its own output"


@pytest.mark.parametrize(("case", "kernels"), [*pairs(CASES, ("auto", "reference"), share=2)])
def test_no_output_depends_on_a_later_token_or_another_row(case, kernels):
    check(compiled(CASES[case], kernels).eval())


@samples(40)
@given(specs(room=6, widths=(6, 8, 12, 16)))
def test_no_output_of_a_generated_spec_depends_on_a_later_token_or_another_row(spec):
    model = compiled(spec).eval()
    # without norms the state of a deep stage may overflow
    assume(model(tokens_for(spec, 2, 6)).isfinite().all())
    check(model)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 3, 8, 20])
def test_a_window_shows_exactly_its_tokens(window, steps, kernels):
    model = compiled(tree({"b": {**SEQ, "window": window}}, {"recur": steps, "step": ["b"]}), kernels)
    tokens = tokens_for(model.spec, 1, 8)
    moved = changed(model, tokens, 0, 1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(1, min(8, 2 + steps * (window - 1))))


@pytest.mark.parametrize("span", ["inclusive", "exclusive"])
@pytest.mark.parametrize("kind", ["recur", "stack"])
def test_depth_attention_leaks_nothing_between_tokens(kind, span):
    blocks = {"d": {**DEPTH, "span": span}, "f": FFN}
    stage = {kind: 2, "step": ["d", "f", {"stack": 2, "step": [{"parallel": ["d", "d"]}, "f"]}]}
    model = compiled(tree(blocks, stage))
    tokens = tokens_for(model.spec, 3, 7)
    for row, at in ((0, 0), (1, 3), (2, 6)):
        assert changed(model, tokens, row, at).nonzero().tolist() == [[row, at]]


@pytest.mark.parametrize("case", ["dreamer", "depth, exclusive", "three levels"])
def test_a_pass_leaves_nothing_to_the_next(case):
    model = compiled(CASES[case])
    a, b = tokens_for(model.spec, 2, 6), tokens_for(model.spec, 3, 5, seed=1)
    first = model(a)
    model(b)
    assert torch.equal(model(a), first)
