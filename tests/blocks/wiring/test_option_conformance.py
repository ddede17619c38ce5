"""Every wiring option, in each of its fields, and every field of `model` holds what options have to hold."""

import pytest
from flops import MIX_TWINS
from samples import pairs

from blocks.find import all_wiring
from composer.language.schema.spec import Model
from composer.testing.examples import other_values
from composer.testing.wiring import CHECKS, HOST, MODEL_CHECKS, examples

OF_OPTIONS = {option: examples(option) for option in all_wiring()}
EXAMPLES = {name: one for result in OF_OPTIONS.values() for name, one in result.items()}
FIELDS = {
    f"{key} {value}": {**HOST, "model": {**HOST["model"], key: value}}
    for key, value in other_values(Model)
    if key not in ("width", "vocab", "context")
}
FIELDS["layer norms with shifts"] = {**HOST, "model": {**HOST["model"], "norm_type": "layer", "bias": True}}
# what traces code takes long: in the short run one option of each key
QUICK = {"torch.compile": {example.key: name for name, example in EXAMPLES.items()}.values()}


@pytest.fixture(autouse=True)
def seen_products(request, monkeypatch):
    """Compute products that are elementwise so that torch's counter of FLOPs sees them."""
    if request.node.callspec.params.get("check") == "FLOPs":
        for module, twins in MIX_TWINS.items():
            for name, twin in twins.items():
                monkeypatch.setattr(module, name, twin)


@pytest.mark.parametrize("option", OF_OPTIONS)
def test_every_option_has_an_example(option):
    assert OF_OPTIONS[option]


@pytest.mark.parametrize(
    ("example", "check"), [*pairs(EXAMPLES, CHECKS, group=lambda name: EXAMPLES[name].key, quick=QUICK)]
)
def test_every_option_conforms(example, check):
    CHECKS[check](EXAMPLES[example])


@pytest.mark.parametrize(("example", "check"), [*pairs(FIELDS, MODEL_CHECKS, group=str, quick=QUICK)])
def test_every_field_of_a_model_conforms(example, check):
    MODEL_CHECKS[check](FIELDS[example])
