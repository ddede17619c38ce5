"""Every block there is, in every option, holds what blocks have to hold."""

import pytest
from cases import EXPERT
from flops import TWINS
from models import compiled, tokens_for
from samples import pairs

from blocks.depth_attention import reference
from blocks.find import block_types
from composer.testing.blocks import CHECKS
from composer.testing.examples import examples, tree
from composer.testing.model_checks import acts

EXAMPLES = {name: one for config in block_types().values() for name, one in examples(config).items()}


def test_every_block_has_examples_for_all_of_its_choices():
    assert {one["type"] for one in EXAMPLES.values()} == set(block_types())
    assert len(EXAMPLES) >= 15


@pytest.mark.parametrize(
    ("example", "check"), [*pairs(EXAMPLES, CHECKS, group=lambda name: EXAMPLES[name]["type"])]
)
def test_every_block_conforms(example, check, monkeypatch):
    if check == "FLOPs":
        # products that are elementwise are not seen by torch's counter
        for name, twin in TWINS.items():
            monkeypatch.setattr(reference, name, twin)
    CHECKS[check](EXAMPLES[example])


def test_a_weight_that_cannot_act_is_told_from_one_that_has_lost_its_gradient():
    # the only expert of a token has the weight 1 whatever its key; two experts share it by their keys
    for active, expected in ((1, False), (2, True)):
        plain = tree({**EXPERT, "experts": active, "active": active})
        model = compiled(plain, "reference").double()
        tokens = tokens_for(model.spec, 4, 8)
        assert acts(model, "stages.0.step.0.b.keys", tokens) == expected
