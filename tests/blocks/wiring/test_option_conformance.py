"""Every wiring option, in each of its fields, and every field of `model` holds what options have to hold."""

import pytest
from flops import MIX_TWINS

from blocks.find import all_wiring
from composer.language.schema.spec import Model
from composer.testing.examples import other_values
from composer.testing.wiring import CHECKS, HOST, MODEL_CHECKS, examples

EXAMPLES = {name: one for option in all_wiring() for name, one in examples(option).items()}
FIELDS = {
    f"{key} {value}": {**HOST, "model": {**HOST["model"], key: value}}
    for key, value in other_values(Model)
    if key not in ("width", "vocab", "context")
}
FIELDS["layer norms with shifts"] = {**HOST, "model": {**HOST["model"], "norm_type": "layer", "bias": True}}
SLOW = "torch.compile"
QUICK = {example.key: name for name, example in EXAMPLES.items()}.values()


def pairs(checks, these):
    """Every check of every example; what traces code, which takes long, for one option of each key."""
    return [
        pytest.param(
            example, check, marks=[pytest.mark.slow] if check == SLOW and example not in QUICK else []
        )
        for example in these
        for check in checks
    ]


@pytest.fixture(autouse=True)
def seen_products(request, monkeypatch):
    """Compute products that are elementwise so that torch's counter of FLOPs sees them."""
    if request.node.callspec.params.get("check") == "FLOPs":
        for module, twins in MIX_TWINS.items():
            for name, twin in twins.items():
                monkeypatch.setattr(module, name, twin)


@pytest.mark.parametrize("option", all_wiring())
def test_every_option_has_an_example(option):
    assert examples(option)


@pytest.mark.parametrize(("example", "check"), pairs(CHECKS, EXAMPLES))
def test_every_option_conforms(example, check):
    CHECKS[check](EXAMPLES[example])


@pytest.mark.parametrize(("example", "check"), pairs(MODEL_CHECKS, FIELDS))
def test_every_field_of_a_model_conforms(example, check):
    MODEL_CHECKS[check](FIELDS[example])
