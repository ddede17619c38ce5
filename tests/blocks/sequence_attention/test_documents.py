"""Documents in one sequence do not see each other: they give what they give one by one."""

import pytest
import torch
import torch.nn.functional as F
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from hypothesis import assume, given
from models import close, compiled
from samples import samples
from strategies import trees

from composer.language.load import loads
from composer.settings.errors import SpecError
from composer.testing.examples import stands
from composer.testing.model_checks import check_decoding

BLOCKS = {"a": SEQ, "w": {**SEQ, "window": 3}, "d": DEPTH, "e": EXPERT, "f": FFN}
MODEL = {"documents": {"apart": 2}, "positions": "learned", "width": 12}
LOOPED = tree(
    BLOCKS,
    {"stack": 1, "step": ["w"]},
    {"recur": 2, "step": ["a", "d", {"parallel": ["w", "e"]}, "f"]},
    **MODEL,
)
# documents of 3, 2, 1 and 2 tokens; of 8; of 5 and 3
ROWS = torch.tensor([[3, 4, 5, 2, 6, 2, 2, 7], [2, 3, 1, 4, 5, 6, 7, 8], [9, 3, 1, 4, 5, 2, 10, 8]])
ENDS = ([3, 5, 6], [], [5])


def summed(model, tokens, targets):
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")


def grads(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_outputs_and_gradients_are_those_of_the_documents_one_by_one(kernels):
    model = compiled(LOOPED, kernels).double().eval()
    targets = ROWS.roll(-1, 1)
    whole = model(ROWS)
    summed(model, ROWS, targets).backward()
    packed = grads(model)
    model.zero_grad()
    for row, ends in enumerate(ENDS):
        for start, end in zip([0, *ends], [*ends, 8], strict=True):
            alone = ROWS[row : row + 1, start:end]
            close({"y": model(alone)[0]}, {"y": whole[row, start:end]}, 1e-6)
            summed(model, alone, targets[row : row + 1, start:end]).backward()
    close(packed, grads(model), 1e-5)


@samples(20)
@given(trees(levels=2, room=6))
def test_nothing_of_a_document_reaches_another_in_generated_specs(plain):
    plain = {**plain, "model": {**plain["model"], "documents": {"apart": 0}}}
    if not stands(plain):
        return
    model = compiled(plain).eval()
    tokens = torch.tensor([[1, 1, 0, 1, 1, 0, 1]])
    other = torch.tensor([[0, 0, 0, 1, 1, 0, 1]])
    with torch.no_grad():
        one, two = model(tokens)[:, 2:], model(other)[:, 2:]
    # without norms the state of a deep stage may overflow
    assume(one.isfinite().all())
    assert (one - two).abs().max() < 1e-4


@pytest.mark.parametrize("tokens", [ROWS, ROWS.flip(1)])
def test_documents_are_decoded_apart(tokens):
    check_decoding(compiled(LOOPED, "reference").double().eval(), tokens)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({**SEQ, "window": 2, "sinks": 1}, "sinks does not support document masks"),
        ({**SEQ, "soft_cap": 1.0}, "soft_cap does not"),
        ({**SEQ, "depth": "joint"}, "depth: joint does not"),
        ({**SEQ, "steps": "all"}, "steps: all does not"),
        ({**EXPERT, "routing": "expert_choice"}, "experts select among all tokens"),
        ({**EXPERT, "capacity": 1.0}, "tokens of all documents use up capacity"),
    ],
)
def test_what_cannot_keep_them_apart_is_refused(block, why):
    plain = tree({"b": block}, {"recur": 2, "step": ["b"]}, documents={"apart": 2})
    with pytest.raises(SpecError, match=rf"model\.documents: expected joined beside block b, where {why}"):
        compiled(plain)


def test_what_gives_blocks_some_of_the_tokens_is_refused_beside_them():
    stage = {"recur": 2, "step": ["b"], "route": {"by": "expert_choice", "keep": [1.0, 0.5]}}
    with pytest.raises(
        SpecError, match=r"model\.documents: expected joined beside route: by, where blocks get"
    ):
        compiled(tree({"b": SEQ}, stage, documents={"apart": 2}))


TEXT = """
schema: 1
name: t
model: {{width: 8, vocab: 256, context: 8, documents: {{apart: {}}}}}
blocks: {{b: {{type: sequence_attention, heads: 2}}}}
stages: [{{stack: 1, step: [b]}}]
train: {{data: {}, tokens: 80, batch_tokens: 16}}
"""


def test_the_token_has_to_be_the_one_between_documents_of_the_data():
    text, hop = "{task: text, path: x, length: 8}", "{task: hop, length: 8, symbols: 4, hops: 1}"
    assert loads(TEXT.format(255, text))
    with pytest.raises(SpecError, match=r"model\.documents: expected \{apart: 255\}, got \{apart: 254\}"):
        loads(TEXT.format(254, text))
    with pytest.raises(SpecError, match=r"model\.documents: expected joined.*task hop has no token between"):
        loads(TEXT.format(255, hop))
    with pytest.raises(SpecError, match=r"model\.documents: expected a token id below model.vocab \(256\)"):
        loads(TEXT.format(256, text))
