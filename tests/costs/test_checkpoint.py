"""Checkpoint sizes against files that are really written."""

import pytest
import torch
from cases import FFN, tree
from hypothesis import given
from models import compiled, shipped
from samples import samples
from strategies import make, specs

from composer.costs.counting.checkpoint import checkpoint_size
from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Train
from composer.module.optimization.optimizer import make_optimizer
from composer.training.folder.checkpoint import save_weights


def check(spec, folder):
    model = compiled(spec)
    save_weights(folder / "weights.safetensors", model.state_dict(), resolved_yaml(spec))
    data = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}
    train = spec.train or Train.model_validate({"data": data, "tokens": 16})
    optimizer = make_optimizer(model.named_parameters(), model.graph, train)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    state = [each for slot in optimizer.state.values() for each in slot.values()]
    tensors = [*model.state_dict().values(), *state]
    assert all(torch.is_tensor(each) for each in tensors)
    size = checkpoint_size(spec)
    assert size.weights_file == (folder / "weights.safetensors").stat().st_size
    assert size.resume_tensors == sum(each.nbytes for each in tensors)


@pytest.mark.parametrize("name", [name for name in shipped() if name != "dreamer-small"])
def test_shipped_specs_leave_what_is_declared(name, tmp_path):
    check(shipped()[name], tmp_path)


@samples(40)
@given(spec=specs())
def test_generated_specs_leave_what_is_declared(tmp_path_factory, spec):
    check(spec, tmp_path_factory.getbasetemp())


def test_the_header_of_too_many_tensors_is_not_counted():
    size = checkpoint_size(make(tree({"b": FFN}, {"stack": 1_000_000, "step": ["b"]})))
    assert size.weights_file is None
    assert size.resume_tensors > 12 * 10**6 * 4
