"""Scaled positions: which are refused; tests/family compares YaRN with `transformers`."""

import pytest
from cases import SEQ, one
from strategies import make

from composer.settings.errors import SpecError

YARN = {"factor": 4, "context": 2048}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_scaling": {}}, "rope_scaling: expected one of linear, ntk, yarn, got 'none'"),
        ({"rope_scaling": {"ntk": 2, "yarn": YARN}}, "one of linear, ntk, yarn, got 'ntk, yarn'"),
        ({"rope_scaling": {"yarn": {"factor": 4}}}, "rope_scaling.yarn.context: "),
        (
            {"rope_scaling": {"yarn": {**YARN, "beta_slow": 32}}},
            "rope_scaling.yarn.beta_fast: expected a number above beta_slow (32), got 32",
        ),
        (
            {"rope_scaling": {"yarn": YARN}, "rope_base": 1.0},
            "rope_base: expected a number above 1, so that yarn can tell slow pairs from fast ones",
        ),
        (
            {"rope_scaling": {"ntk": 2}, "head_dim": 2},
            "rope_scaling.ntk: expected more than one rotated pair",
        ),
        ({"rope_scaling": {"yarn": YARN}, "rope": False}, "no rope_scaling, since rope is false"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(SpecError) as raised:
        make(one({**SEQ, **fields}))
    assert words in str(raised.value)
