"""torch.compile and torch.export of whole models on a CPU in fp32, experts among them."""

from functools import partial

import pytest
import torch
from cases import DEPTH, GROUPED, SEQ, one, tree
from models import close, compiled, gradients, probe, shipped, tokens_for

from composer.module.emission.stage import Stage

FEW = {**GROUPED, "experts": 3}
DREAMER = tree(
    {"seq": SEQ, "depth": DEPTH, "expert": FEW}, {"recur": 2, "step": ["seq", "depth", "expert"]}, width=16
)


# of torch.compile itself, where a trace begins with a tensor inside a model
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_model_has_the_same_outputs_and_gradients_and_counts_the_same_loads():
    torch.compiler.reset()
    model = compiled(one(FEW, width=16, recur=1)).train()
    tokens, load = tokens_for(model.spec), model.get_buffer("stages.0.step.0.b.load")
    expected, counted = {**gradients(model, tokens), "logits": model(tokens)}, load.clone() / 2
    load.zero_()
    model.zero_grad(set_to_none=True)
    # no backend that needs a C++ compiler
    logits = torch.compile(model, backend="aot_eager")(tokens)
    probe(logits).backward()
    close({**{name: each.grad for name, each in model.named_parameters()}, "logits": logits}, expected)
    assert torch.equal(load, counted)


def test_an_exported_model_gives_the_same_logits_for_any_batch():
    model = compiled(DREAMER).eval()
    shapes = {"tokens": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(model, (tokens_for(model.spec, 3),), dynamic_shapes=shapes, strict=False)
    for batch in (2, 5):
        tokens = tokens_for(model.spec, batch, seed=batch)
        close({"logits": program.module()(tokens)}, {"logits": model(tokens)})
    assert program.state_dict.keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["dreamer-tiny", "looped", "nested"])
def test_the_code_that_is_printed_computes_what_the_model_does(name):
    model = compiled(shipped()[name]).eval()
    tokens = tokens_for(model.spec)
    expected = model(tokens)
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    for code in [model.code, *(stage.code for stage in stages)]:
        for each in getattr(code, "codes", [code]):
            ((_, text),) = each.sources("any")
            results = {}
            exec(text, results)
            each.plain = partial(results["forward"], each.plain)
    assert torch.equal(model(tokens), expected)
