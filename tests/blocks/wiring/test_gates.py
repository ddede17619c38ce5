"""Gates and learned scales of residual connections at their start, and norms of scores."""

import pytest
import torch
from cases import ALL, FFN, SEQ, tree
from models import tokens_for
from strategies import make

from blocks.wiring.residual.scale import ScaledResidual
from composer.module.model import ComposedModel

BLOCKS = {"seq": SEQ, "ffn": FFN}
STEP = ["seq", {"parallel": ["ffn", "seq"], "combine": "gate"}]


def model_with(**wiring):
    return ComposedModel(make(tree(BLOCKS, {"recur": 3, "step": STEP, **wiring})))


@pytest.mark.parametrize("norm", ["pre", "sandwich", "scores", "none"])
@pytest.mark.parametrize("gate", ["scalar", "channel", "token"])
def test_a_gate_starts_closed_and_opens(gate, norm):
    model = model_with(residual={"gate": gate}, norm=norm)
    tokens = tokens_for(model.spec)
    state = torch.nn.functional.embedding(tokens, model.embedding) * 10**0.5
    head = torch.nn.functional.rms_norm(state, (10,), model.norm, 1e-6) @ model.embedding.T
    torch.testing.assert_close(model(tokens), head, atol=1e-6, rtol=0)
    model.loss(tokens, tokens.roll(1, 1)).backward()
    gates = [weight for name, weight in model.named_parameters() if name.endswith("residual_gate")]
    assert len(gates) == 2
    assert all((weight.grad != 0).all() for weight in gates)


def test_projections_behind_a_gate_start_at_full_size():
    gated = dict(model_with(residual={"gate": "scalar"}).named_parameters())
    plain = dict(model_with().named_parameters())
    name = "stages.0.step.0.seq.out"
    # three uses of each of three tensors that write into the stream
    assert torch.allclose(gated[name], plain[name] * 3 * 3**0.5)


def test_a_learned_scale_starts_as_a_plain_sum():
    learned, plain = model_with(residual={"scale": "learned"}), model_with()
    tokens = tokens_for(plain.spec)
    assert torch.equal(learned(tokens), plain(tokens))
    extra = dict(learned.named_parameters()).keys() - dict(plain.named_parameters()).keys()
    assert extra == {"stages.0.step.0.residual_scale", "stages.0.step.1.residual_scale"}


def test_blocks_of_a_sublayer_share_the_norm_of_their_scores_and_others_have_none():
    stage = {"recur": 2, "step": [{"parallel": [*ALL]}, "ffn", "expert"], "norm": "scores"}
    names = dict(ComposedModel(make(tree(ALL, stage))).named_parameters())
    norms = [name for name in names if name.endswith("norm")]
    assert norms == ["norm", "stages.0.step.0.norm", "stages.0.step.2.norm"]


def test_the_words_of_pictures_name_what_is_learned():
    from blocks.base.wiring import Site

    assert ScaledResidual(scale="learned").summary(Site(8)) == "updates times a learned scalar"
    assert ScaledResidual(scale=0.5).summary(Site(8)) == "updates times 0.5"
