"""Every wiring option, in each of its fields, and every field of `model` holds what options have to hold."""

from collections import Counter

import pytest
from flops import MIX_TWINS

from blocks.find import all_wiring
from composer.language.schema.spec import Model
from composer.testing.examples import other_values
from composer.testing.wiring import CHECKS, HOST, MODEL_CHECKS, examples

OPTIONS = {name: option for option in all_wiring() for name in examples(option)}
EXAMPLES = {name: one for option in all_wiring() for name, one in examples(option).items()}
FIELDS = {
    f"{key} {value}": {**HOST, "model": {**HOST["model"], key: value}}
    for key, value in other_values(Model)
    if key not in ("width", "vocab", "context")
}
FIELDS["layer norms with shifts"] = {**HOST, "model": {**HOST["model"], "norm_type": "layer", "bias": True}}
SLOW = "torch.compile"
QUICK = {example.key: name for name, example in EXAMPLES.items()}.values()


def pairs(checks, these, group=str):
    """Every check of every example; in the short run of a third of the examples of a group.

    What traces code, which takes long, is checked for one option of each key.
    """
    members = Counter(group(name) for name in these)
    seen = Counter()
    for name in these:
        share, number = min(members[group(name)], 3), seen[group(name)]
        seen[group(name)] += 1
        for place, check in enumerate(checks):
            quick = name in QUICK if check == SLOW else (number + place) % share == 0
            yield pytest.param(name, check, marks=[] if quick else [pytest.mark.slow])


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


@pytest.mark.parametrize(("example", "check"), [*pairs(CHECKS, EXAMPLES, OPTIONS.get)])
def test_every_option_conforms(example, check):
    CHECKS[check](EXAMPLES[example])


@pytest.mark.parametrize(("example", "check"), [*pairs(MODEL_CHECKS, FIELDS)])
def test_every_field_of_a_model_conforms(example, check):
    MODEL_CHECKS[check](FIELDS[example])
