"""What every block has to hold, whoever wrote it: found by its folder or entry point, it is tested here.

Examples of a block are made from its config: required counts are 2, and every other value of a flag, a choice
or an optional count makes one more example. Those that the block itself refuses are left out.
"""

from typing import Annotated, Literal, get_args, get_origin

import torch
from models import close, compiled, gradients, tokens_for
from strategies import make

from blocks.core.config import BlockConfig
from composer.costs.count import count

WIDTH = 16


def examples(config: type[BlockConfig]):
    """Map a name to each example of a block, as plain data."""
    kind = config.model_fields["type"].default
    plain = {"type": kind}
    for name, field in config.model_fields.items():
        if field.is_required():
            plain[name] = _values(field.annotation, required=True)[0]
    found = {kind: plain}
    for name, field in config.model_fields.items():
        for value in _values(field.annotation):
            if name != "type" and value not in (field.default, plain.get(name)):
                found[f"{kind}, {name} {value}"] = {**plain, name: value}
    return {name: one for name, one in found.items() if not _refused(config, one)}


def _values(annotation, required=False):
    """Return values to try for a field: flags, choices and counts; other fields stay at their default."""
    origin = get_origin(annotation)
    if annotation is bool:
        return [True, False]
    if annotation is int:
        return [2] if required else [1, 2]
    if annotation is float:
        return [0.5]
    if origin is Literal:
        return list(get_args(annotation))
    if origin is Annotated:
        return _values(get_args(annotation)[0], required)
    return [value for part in get_args(annotation) for value in _values(part, required)]


def _refused(config, plain):
    return any(config.model_validate(plain).problems(WIDTH))


def tree(plain):
    """A model of this block alone, at three steps."""
    model = {"width": WIDTH, "vocab": 13, "context": 8}
    return {
        "schema": 1,
        "name": "t",
        "model": model,
        "blocks": {"b": plain},
        "stages": [{"recur": 3, "step": ["b"]}],
    }


def check_causality(plain, kernels):
    """No output depends on a later token or on another row."""
    model = compiled(tree(plain), kernels).eval()
    tokens = tokens_for(model.spec, 2, 7)
    with torch.no_grad():
        before = model(tokens)
        for at in range(7):
            other = tokens.clone()
            other[0, at] = (other[0, at] + 1) % 13
            moved = (model(other) - before).abs().amax(-1) > 1e-4
            assert not moved[0, :at].any(), f"token {at} moves earlier outputs"
            assert not moved[1].any(), "a row moves another"


def check_passes_apart(plain):
    """A pass leaves nothing to the next, whatever its sizes."""
    model = compiled(tree(plain)).eval()
    tokens = tokens_for(model.spec, 2, 7)
    before = model(tokens)
    for batch, length in ((1, 1), (3, 5)):
        assert model(tokens_for(model.spec, batch, length)).isfinite().all()
    assert torch.equal(model(tokens), before)


def check_kernels(plain):
    """The chosen kernels give what the references give, in outputs and gradients, from the same weights."""
    chosen, reference = compiled(tree(plain)), compiled(tree(plain), "reference", shaken=1)
    reference.load_state_dict(chosen.state_dict())
    tokens = tokens_for(chosen.spec, 3, 7)
    close({"y": chosen(tokens)}, {"y": reference(tokens)})
    close(gradients(chosen, tokens), gradients(reference, tokens), 1e-4)


def check_parameters(plain):
    """Declared parameters are built ones."""
    built = sum(parameter.numel() for parameter in compiled(tree(plain)).parameters())
    assert count(make(tree(plain))).params == built


def check_gradients(plain):
    """Every weight gets a finite gradient, and one that is not 0 unless it cannot act at all."""
    model = compiled(tree(plain), "reference").double()
    tokens = tokens_for(model.spec, 8, 8)
    for name, gradient in gradients(model, tokens).items():
        assert gradient.isfinite().all(), name
        if acts(model, name, tokens):
            assert gradient.abs().max() > 1e-9, f"{name} has no gradient"


@torch.no_grad()
def acts(model, name, tokens):
    """Return whether a small change of a weight changes any output."""
    parameter = model.get_parameter(name)
    before, start = model(tokens), parameter.clone()
    # too little to choose other experts
    parameter += 1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    moved = (model(tokens) - before).abs().max() > 1e-10
    parameter.copy_(start)
    return bool(moved)
