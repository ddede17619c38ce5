"""Every block there is, in every option, holds what blocks have to hold."""

import conformance
import pytest
from cases import EXPERT
from conformance import examples, tree
from flops import counted, declared
from models import compiled, tokens_for
from strategies import make

from blocks.find import block_types

EXAMPLES = {name: one for config in block_types().values() for name, one in examples(config).items()}
each_block = pytest.mark.parametrize("example", EXAMPLES)


def test_every_block_has_examples_for_all_of_its_choices():
    assert {one["type"] for one in EXAMPLES.values()} == set(block_types())
    assert len(EXAMPLES) >= 15


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@each_block
def test_no_output_depends_on_a_later_token_or_another_row(example, kernels):
    conformance.check_causality(EXAMPLES[example], kernels)


@each_block
def test_a_pass_leaves_nothing_to_the_next(example):
    conformance.check_passes_apart(EXAMPLES[example])


@each_block
def test_chosen_kernels_equal_references(example):
    conformance.check_kernels(EXAMPLES[example])


@each_block
def test_declared_parameters_are_built(example):
    conformance.check_parameters(EXAMPLES[example])


@each_block
def test_declared_flops_run(example):
    spec = make(tree(EXAMPLES[example]))
    assert declared(spec) == pytest.approx(counted(spec), rel=1e-12)


@each_block
def test_every_weight_that_acts_has_a_gradient(example):
    conformance.check_gradients(EXAMPLES[example])


def test_a_weight_that_cannot_act_is_told_from_one_that_has_lost_its_gradient():
    # the only expert of a token has the weight 1 whatever its key; two experts share it by their keys
    for active, expected in ((1, False), (2, True)):
        plain = tree({**EXPERT, "experts": active, "active": active})
        model = compiled(plain, "reference").double()
        tokens = tokens_for(model.spec, 4, 8)
        assert conformance.acts(model, "stages.0.step.0.b.keys", tokens) == expected
